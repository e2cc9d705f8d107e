"""Exported encoders: the mapping both ways, the folder, the command, and timm itself where it is installed."""

import json
import pathlib
import re
import runpy
import subprocess
import sys
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from dual_encoder.checkpoint import Checkpoints, LoadedModel
from dual_encoder.errors import UserError
from dual_encoder.export.timm_folder import export
from dual_encoder.export.timm_weights import from_timm, to_timm
from dual_encoder.models.resnet import ResNet
from dual_encoder.sensors import SENSORS
from dual_encoder.train_state import TrainState

weight = runpy.run_path(str(pathlib.Path(__file__).parent / "golden" / "make_resnet.py"))["weight"]


def shapes(depth: int, width: int, bands: int) -> dict:
    return jax.eval_shape(lambda: ResNet(depth, width).init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))


def encoder(depth: int, width: int, bands: int) -> dict:
    template = shapes(depth, width, bands)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    return from_timm({key: weight(key, value.shape) for key, value in to_timm(zeros).items()}, template)


def checkpoint(depth: int = 18, width: int = 64) -> LoadedModel:
    """A checkpoint of an s1 (2 bands) and an s2 (12 bands) encoder with made-up values."""
    sensors = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
    encoders = {name: encoder(depth, width, len(spec.bands)) for name, spec in sensors.items()}
    return LoadedModel(
        step=1200, sensors=sensors, code_version="0.1.0", config={"task": "pretrain", "augment": {"crop": 0}},
        variables={collection: {f"{name}_encoder": encoders[name][collection] for name in sensors}
                   for collection in ("params", "batch_stats")},
        dataset={"name": "s1s2_pairs", "config": "bigearthnet", "version": "1.0.0", "fingerprint": "ab" * 32,
                 "tensors": {"s1": {"dtype": "int16", "shape": [120, 120, 2]},
                             "s2": {"dtype": "uint16", "shape": [120, 120, 12]}},
                 "source": {"importer": "bigearthnet", "licence": "CDLA-Permissive-1.0", "attribution": "BigEarthNet"}})


def test_mapping_loses_nothing_either_way():
    for depth in (18, 50):
        variables = encoder(depth, 4, 3)
        state = to_timm(variables)
        assert jax.tree.all(jax.tree.map(np.array_equal, from_timm(state, shapes(depth, 4, 3)), variables))
        assert len(state) == len(jax.tree.leaves(variables))


def test_kernels_turn_to_oihw_and_names_are_those_of_torchvision():
    variables = encoder(18, 4, 3)
    state = to_timm(variables)
    kernel = variables["params"]["layer2_0"]["downsample_conv"]["kernel"]
    for i, o in ((0, 0), (1, 5), (3, 2)):
        assert state["layer2.0.downsample.0.weight"][o, i, 0, 0] == kernel[0, 0, i, o]
    assert state["conv1.weight"][1, 2, 6, 0] == variables["params"]["conv1"]["kernel"][6, 0, 2, 1]
    assert np.array_equal(state["layer4.1.bn2.running_var"], variables["batch_stats"]["layer4_1"]["bn2"]["var"])
    assert {key for key in state if key.startswith("layer2.0.downsample")} == {
        "layer2.0.downsample.0.weight", *(f"layer2.0.downsample.1.{leaf}" for leaf in (
            "weight", "bias", "running_mean", "running_var"))}


def test_foreign_weights_are_refused_with_the_keys_that_differ():
    template, state = shapes(18, 4, 3), to_timm(encoder(18, 4, 3))
    from_timm(state | {"bn1.num_batches_tracked": np.int64(3)}, template)
    with pytest.raises(UserError, match=r"unexpected 2 \(fc.bias, fc.weight\)"):
        from_timm(state | {"fc.weight": np.zeros((5, 32)), "fc.bias": np.zeros(5)}, template)
    with pytest.raises(UserError, match=r"missing 1 \(bn1.bias\)"):
        from_timm({key: value for key, value in state.items() if key != "bn1.bias"}, template)
    with pytest.raises(UserError, match=r"other shape 1 \(conv1.weight \[4, 2, 7, 7\] for \[4, 3, 7, 7\]\)"):
        from_timm(state | {"conv1.weight": np.zeros((4, 2, 7, 7))}, template)
    with pytest.raises(UserError, match=r"unexpected 85 .*, ...\); other shape 31"):
        from_timm(to_timm(encoder(50, 4, 3)), shapes(34, 4, 3))


def test_folder_holds_the_weights_the_description_and_the_card(tmp_path):
    model = checkpoint()
    paths = export(model, "s2", tmp_path / "a" / "s2")
    assert sorted(paths) == sorted((tmp_path / "a" / "s2").iterdir())
    expected = to_timm({key: tree["s2_encoder"] for key, tree in model.variables.items()})
    state = load_file(paths[0])
    assert state.keys() == expected.keys() and all(np.array_equal(state[key], expected[key]) for key in expected)
    description = json.loads(paths[1].read_text())
    assert description["architecture"] == "resnet18" and description["num_features"] == 512
    assert description["pretrained_cfg"]["input_size"] == [12, 120, 120]
    assert description["pretrained_cfg"]["mean"][:2] == [0.07524, 0.08843]  # reflectance
    assert description["dual_encoder"]["sensor"]["mean"][0] == 752.40  # stored integer
    assert description["dual_encoder"]["dataset"]["fingerprint"] == "ab" * 32
    card = paths[2].read_text()
    for fact in ("B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12", "surface reflectance", "(stored - mean)",
                 "10000 * reflectance", "subtract 1000", "120 x 120 px", "1200", "ab" * 32, "CDLA-Permissive-1.0",
                 "beside an encoder of s1 (s1_grd)", "re-mixes",
                 SENSORS["s2_l2a"].provenance, "| B8A | 2581.65 | 1439.31 |", "bands are all 0"):
        assert fact in card, fact


def test_radar_card_says_decibel_and_crop_is_the_patch_size(tmp_path):
    model = checkpoint(width=4)
    model.config["augment"]["crop"], model.config["task"] = 96, "finetune"
    card = export(model, "s1", tmp_path)[2].read_text()
    for fact in ("VV, VH", "100 * dB", "log10", "never 0 dB", "-32768", "96 x 96 px", "fine-tuning"):
        assert fact in card, fact
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["mean"] == [-12.548, -20.192]


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    model = checkpoint(width=4)
    export(model, "s1", tmp_path / "out")
    export(model, "s2", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["conv1.weight"].shape[1] == 12
    assert len(list((tmp_path / "out").iterdir())) == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds files of something else"):
        export(model, "s1", tmp_path / "thesis")
    assert (tmp_path / "thesis" / "README.md").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write the export to '.*file'"):
        export(model, "s1", tmp_path / "file")


def test_unknown_sensor_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="no encoder of sensor 's3'; did you mean 's[12]'"):
        export(checkpoint(width=4), "s3", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command_exports_from_a_checkpoint(tmp_path):
    model = checkpoint(width=4)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"), 1, {
        "config": model.config, "dataset": model.dataset, "code_version": model.code_version,
        "sensors": {name: spec.to_json() for name, spec in model.sensors.items()}})
    state = jax.tree.map(jnp.asarray, TrainState(step=1200, params=model.variables["params"],
                                                 batch_stats=model.variables["batch_stats"], opt_state=()))
    checkpoints.save(1200, state)
    checkpoints.close()

    def command(*flags):
        return subprocess.run([sys.executable, "-m", "dual_encoder.export", f"--workdir={tmp_path / 'run'}",
                               f"--out={tmp_path / 'out'}", *flags], capture_output=True, text=True)

    done = command("--sensor=s1")
    assert done.returncode == 0, done.stderr
    *files, note = done.stdout.splitlines()
    assert [pathlib.Path(file).name for file in files] == ["model.safetensors", "config.json", "README.md"]
    assert "stem is 4 channels wide" in note
    expected = to_timm({key: tree["s1_encoder"] for key, tree in model.variables.items()})
    state = load_file(files[0])
    assert all(np.array_equal(state[key], expected[key]) for key in expected)
    for flags, message in ((["--sensor=s4"], "no encoder of sensor 's4'"),
                           (["--sensor=s1", "--step=7"], "no checkpoint of step 7; it has [1200]")):
        done = command(*flags)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_command_ends_with_one_line_when_there_is_no_checkpoint(tmp_path):
    done = subprocess.run([sys.executable, "-m", "dual_encoder.export", f"--workdir={tmp_path}", "--sensor=s2",
                           f"--out={tmp_path / 'out'}"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path) in done.stderr and "checkpoint" in done.stderr and not done.stdout


@pytest.fixture(scope="module")
def timm() -> types.ModuleType:
    torch = pytest.importorskip("torch", reason="needs `pip install dual_encoder[torch]`")
    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails at import because
        # two of them are not declared. timm's ResNets use neither.
        try:
            import torchvision  # noqa: F401
        except RuntimeError:
            operators = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return pytest.importorskip("timm")


def image(height: int, width: int, bands: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((2, height, width, bands)).astype(np.float32)


def forward(model, x: np.ndarray) -> list[np.ndarray]:
    """Answers of a torch model with several maps for x [batch, h, w, bands], as [batch, h, w, channels]."""
    import torch

    with torch.no_grad():
        return [m.permute(0, 2, 3, 1).numpy() for m in model(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())]


def assert_same(ours, theirs):
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
    print("relative errors", *(f"{e:.1e}" for e in errors))
    assert max(errors) <= 2e-6, errors


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_timm_computes_the_same_maps_from_an_export(timm, tmp_path, depth):
    model = checkpoint(depth)
    export(model, "s2", tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    variables = {key: tree["s2_encoder"] for key, tree in model.variables.items()}
    ours = jax.jit(lambda x: ResNet(depth).apply(variables, x, False))
    for height, width in ((120, 120), (128, 128), (264, 264), (121, 65)):
        x = image(height, width, 12)
        assert_same(ours(x), forward(theirs, x))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_weights_of_timm_load_here(timm, depth):
    import torch

    torch.manual_seed(0)
    theirs = timm.create_model(f"resnet{depth}", in_chans=2, features_only=True).eval()
    for key, value in theirs.state_dict().items():
        if value.ndim == 1:  # BatchNorm; its statistics are not random in a new model
            value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
    variables = from_timm({key: value.numpy() for key, value in theirs.state_dict().items()}, shapes(depth, 64, 2))
    ours = jax.jit(lambda x: ResNet(depth).apply(variables, x, False))
    for height, width in ((120, 120), (75, 131)):
        x = image(height, width, 2)
        assert_same(ours(x), forward(theirs, x))


@pytest.mark.parametrize(("depth", "width"), [(18, 64), (18, 16), (50, 8)])
def test_the_snippet_of_the_card_runs_and_gives_our_pooled_features(timm, tmp_path, depth, width):
    model = checkpoint(depth, width)
    card = export(model, "s1", tmp_path)[2].read_text()
    snippet = re.search("```python\n(.*?)```", card, re.DOTALL)[1].replace('folder = "."', f'folder = "{tmp_path}"')
    values: dict = {}
    exec(snippet, values)
    spec = SENSORS["s1_grd"]
    x = np.broadcast_to((0 - np.array(spec.mean)) / np.array(spec.std), (1, 128, 128, 2)).astype(np.float32)
    variables = {key: tree["s1_encoder"] for key, tree in model.variables.items()}
    features = jax.jit(lambda x: ResNet(depth, width).apply(variables, x, False))(x)[-1].mean(axis=(1, 2))
    assert values["features"].shape == features.shape
    assert_same([features], [values["features"].numpy()])
    if width == 64:  # the trap that the card warns of: no error
        assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=3).conv1.weight.shape[1] == 3
    else:
        assert "refuses it" in card
        with pytest.raises(RuntimeError, match="size mismatch"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
