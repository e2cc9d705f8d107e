"""Exported encoders: the mapping both ways, the folder, the command, and timm itself where it is installed."""

import json
import os
import pathlib
import re
import runpy
import subprocess
import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file

from dual_encoder.errors import UserError
from dual_encoder.export import folder
from dual_encoder.export.folder import Exported
from dual_encoder.export.source import Source
from dual_encoder.export.write import export as write
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.models.resnet import ResNet
from dual_encoder.models.vit import ViT, sincos
from dual_encoder.state import TrainState
from dual_encoder.weights.timm_keys import from_timm, to_timm
from dual_encoder.workdir.checkpoint import Checkpoints, LoadedModel
from tests import commands
from tests.bit_flips import flipped, places
from tests.runtimes import runtime

FLIPS = int(os.environ.get("S1S2_FLIPS", "40"))
weight, vit_weight = (runpy.run_path(str(pathlib.Path(__file__).parent / "golden" / f"make_{name}.py"))["weight"]
                      for name in ("resnet", "vit"))
TINY_VIT = ViT(depth=2, width=128, patch=8, image_size=48)


def export(model: LoadedModel, sensor: str, out: pathlib.Path) -> Exported:
    return write(Source(model, sensor), out)


def shapes(model: ResNet | ViT, bands: int) -> dict:
    return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))


def encoder(model: ResNet | ViT, bands: int) -> dict:
    template, value_of = shapes(model, bands), vit_weight if isinstance(model, ViT) else weight
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    return from_timm({key: value_of(key, value.shape) for key, value in to_timm(zeros).items()}, template)


def settings(model: ResNet | ViT) -> dict:
    """The configuration of an encoder."""
    keys = ("depth", "width", "norm", "patch", "image_size", "pool", "positions", "shift", "remat")
    return {"family": type(model).__name__.lower(), "dtype": "float32"} | {
        key: getattr(model, key) for key in keys if hasattr(model, key)}


def checkpoint(model: ResNet | ViT, names: tuple[str, ...] = ("s1", "s2")) -> LoadedModel:
    """A checkpoint of an s1 (2 bands) and an s2 (12 bands) encoder with made-up values."""
    sensors = {name: SENSORS[{"s1": "s1_grd", "s2": "s2_l2a"}[name]] for name in names}
    encoders = {name: encoder(model, len(spec.bands)) for name, spec in sensors.items()}
    return LoadedModel(
        step=1200, sensors=sensors, code_version="0.1.0",
        config={"task": "pretrain", "augment": {"crop": 0}, "encoder": settings(model)},
        variables={collection: {f"{name}_encoder": encoders[name][collection] for name in sensors
                                if collection in encoders[name]} for collection in ("params", "batch_stats")},
        dataset={"name": "s1s2_pairs", "config": "bigearthnet", "version": "1.0.0", "fingerprint": "ab" * 32,
                 "tensors": {"s1": {"dtype": "int16", "shape": [120, 120, 2]},
                             "s2": {"dtype": "uint16", "shape": [120, 120, 12]}},
                 "source": {"importer": "bigearthnet", "licence": "CDLA-Permissive-1.0", "attribution": "BigEarthNet"}})


def own(model: LoadedModel, sensor: str) -> dict:
    """The variables of one encoder."""
    return {kind: trees[f"{sensor}_encoder"] for kind, trees in model.variables.items() if trees}


@pytest.mark.parametrize("model", [ResNet(18, 4), ResNet(50, 4), ResNet(101, 4, "group"), TINY_VIT,
                                   TINY_VIT.clone(pool="mean"), TINY_VIT.clone(pool="patches")])
def test_mapping_loses_nothing_either_way(model):
    variables = encoder(model, 3)
    state = to_timm(variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, from_timm(state, shapes(model, 3)), variables))
    assert len(state) == len(jax.tree.leaves(variables))


def test_kernels_turn_to_oihw_and_names_are_those_of_torchvision():
    variables = encoder(ResNet(18, 4), 3)
    state = to_timm(variables)
    kernel = variables["params"]["layer2_0"]["downsample_conv"]["kernel"]
    for i, o in ((0, 0), (1, 5), (3, 2)):
        assert state["layer2.0.downsample.0.weight"][o, i, 0, 0] == kernel[0, 0, i, o]
    assert state["conv1.weight"][1, 2, 6, 0] == variables["params"]["conv1"]["kernel"][6, 0, 2, 1]
    assert np.array_equal(state["layer4.1.bn2.running_var"], variables["batch_stats"]["layer4_1"]["bn2"]["var"])
    assert {key for key in state if key.startswith("layer2.0.downsample")} == {
        "layer2.0.downsample.0.weight", *(f"layer2.0.downsample.1.{leaf}" for leaf in (
            "weight", "bias", "running_mean", "running_var"))}


def test_transformers_are_mapped_to_the_names_and_axes_of_timm():
    variables = encoder(TINY_VIT, 3)
    state, params = to_timm(variables), variables["params"]
    assert {key for key in state if not key.startswith("blocks.1.")} == {
        "cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias",
        *(f"blocks.0.{name}.{leaf}" for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
          for leaf in ("weight", "bias"))}
    assert state["blocks.1.attn.qkv.weight"][300, 7] == params["blocks_1"]["attn_qkv"]["kernel"][7, 300]
    assert state["patch_embed.proj.weight"][5, 2, 7, 1] == params["patch_embed"]["kernel"][7, 1, 2, 5]
    assert np.array_equal(state["pos_embed"], params["pos_embed"]) and state["pos_embed"].shape == (1, 37, 128)


def test_foreign_weights_are_refused_with_the_keys_that_differ():
    template, state = shapes(ResNet(18, 4), 3), to_timm(encoder(ResNet(18, 4), 3))
    from_timm(state | {"bn1.num_batches_tracked": np.int64(3)}, template)
    with pytest.raises(UserError, match=r"unexpected 2 \(fc.bias, fc.weight\)"):
        from_timm(state | {"fc.weight": np.zeros((5, 32)), "fc.bias": np.zeros(5)}, template)
    with pytest.raises(UserError, match=r"missing 1 \(bn1.bias\)"):
        from_timm({key: value for key, value in state.items() if key != "bn1.bias"}, template)
    with pytest.raises(UserError, match=r"other shape 1 \(conv1.weight \[4, 2, 7, 7\] for \[4, 3, 7, 7\]\)"):
        from_timm(state | {"conv1.weight": np.zeros((4, 2, 7, 7))}, template)
    with pytest.raises(UserError, match=r"unexpected 85 .*, ...\); other shape 31"):
        from_timm(to_timm(encoder(ResNet(50, 4), 3)), shapes(ResNet(34, 4), 3))


def test_folder_holds_the_weights_the_description_and_the_card(tmp_path):
    model = checkpoint(ResNet(18))
    paths = export(model, "s2", tmp_path / "a" / "s2").paths
    assert sorted(paths) == sorted((tmp_path / "a" / "s2").iterdir())
    expected = to_timm(own(model, "s2"))
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


@pytest.mark.parametrize(("model", "architecture", "arguments", "sentence"), [
    (ResNet(101, 64), "resnet101", {}, "Trained by contrastive"),
    (ResNet(34, 64, "group"), "resnet34", {"norm_layer": "groupnorm"}, "Its norms are GroupNorm"),
    (ResNet(50, 8, "group"), "resnet50", {"channels": [8, 16, 32, 64], "norm_layer": "groupnorm"}, "GroupNorm(max("),
    (ViT(12, 192, patch=16, image_size=96), "vit_tiny_patch16_224", {"img_size": 96},
     "Patches of 16 px; the vector of an image is its class token"),
    (ViT(12, 192, patch=8, image_size=64, pool="mean"), "vit_tiny_patch16_224",
     {"img_size": 64, "patch_size": 8, "class_token": False, "global_pool": "avg", "fc_norm": False},
     "Patches of 8 px; the vector of an image is the mean of its tokens"),
    (ViT(12, 192, 16, 64, "patches"), "vit_tiny_patch16_224", {"img_size": 64, "global_pool": "avg", "fc_norm": True},
     "the vector of an image is the norm of the mean of its tokens, without the class token."),
    (TINY_VIT, "vit_base_patch16_224",
     {"img_size": 48, "patch_size": 8, "embed_dim": 128, "depth": 2, "num_heads": 2},
     " 2 blocks of 128 channels, patches of 8 px"),
])
def test_description_and_card_name_what_timm_must_be_told(tmp_path, model, architecture, arguments, sentence):
    export(checkpoint(model), "s1", tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    if isinstance(model, ViT):
        arguments = arguments | {"dynamic_img_size": True, "dynamic_img_pad": True}
    assert description["architecture"] == architecture
    assert description["model_args"] == {"in_chans": 2} | arguments
    pooled = jax.eval_shape(lambda v: model.apply(v, jnp.zeros((1, 32, 32, 2)), False), shapes(model, 2)).pooled
    assert description["num_features"] == pooled.shape[-1]
    assert sentence in (tmp_path / "README.md").read_text()


def test_radar_card_says_decibel_and_crop_is_the_image_size(tmp_path):
    model = checkpoint(ResNet(18, 4))
    model.config["augment"]["crop"], model.config["task"] = 96, "finetune"
    card = export(model, "s1", tmp_path).paths[2].read_text()
    for fact in ("VV, VH", "100 * dB", "log10", "never 0 dB", "-32768", "96 x 96 px", "fine-tuning"):
        assert fact in card, fact
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["mean"] == [-12.548, -20.192]


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path):
    model = checkpoint(ResNet(18, 4))
    export(model, "s1", tmp_path / "out")
    export(model, "s2", tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["conv1.weight"].shape[1] == 12
    assert len(list((tmp_path / "out").iterdir())) == 5
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
        export(checkpoint(ResNet(18, 4)), "s3", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("network", "note"), [(ResNet(18, 4), "stem is 4 channels wide"), (TINY_VIT, None)])
def test_command_exports_from_a_checkpoint(tmp_path, network, note):
    model = checkpoint(network)
    checkpoints = Checkpoints(epath.Path(tmp_path / "run"), 1, {
        "config": model.config, "dataset": model.dataset, "code_version": model.code_version,
        "sensors": {name: spec.to_json() for name, spec in model.sensors.items()}})
    state = jax.tree.map(jnp.asarray, TrainState(step=1200, params=model.variables["params"],
                                                 batch_stats=model.variables["batch_stats"], opt_state=(),
                                                 average={}))
    checkpoints.save(1200, state)
    checkpoints.close()

    def command(*flags):
        return commands.run("-m", "dual_encoder.export", f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}",
                           *flags)

    done = command("--sensor=s1")
    assert done.returncode == 0, done.stderr
    *files, last = done.stdout.splitlines()
    assert "without sample images" in last and (note is None or note in last)
    assert [pathlib.Path(file).name for file in files] == ["model.safetensors", "config.json", "README.md",
                                                              "card.json", "SHA256SUMS"]
    expected = to_timm(own(model, "s1"))
    state = load_file(files[0])
    assert all(np.array_equal(state[key], expected[key]) for key in expected)
    for flags, message in ((["--sensor=s4"], "no encoder of sensor 's4'"),
                           (["--sensor=s1", "--step=7"], "no checkpoint of step 7; it has [1200]")):
        done = command(*flags)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and message in done.stderr, done.stderr


def test_each_flipped_bit_of_an_export_is_found(tmp_path):
    paths = export(checkpoint(ResNet(18, 4)), "s1", tmp_path / "out").paths
    assert folder.check(tmp_path / "out") == ["README.md", "card.json", "config.json", "model.safetensors"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    for path, rng in places(tmp_path / "out", FLIPS, seed=3):
        with flipped(path, rng) as place, pytest.raises(UserError, match="is damaged") as caught:
            folder.check(tmp_path / "out")
        assert "\n" not in str(caught.value), (path, place)

    def command(flag):
        return commands.run("-m", "dual_encoder.export", flag)

    done = command(f"--check={tmp_path / 'out'}")
    assert done.returncode == 1 and "4 files, all sound\n" in done.stdout
    assert "timm         not checked: it holds no sample images; export it again with --data" in done.stdout
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    done = command(f"--check={tmp_path / 'out'}")
    assert done.returncode == 2 and "model.safetensors does not match its digest" in done.stderr
    (tmp_path / "out" / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="holds no SHA256SUMS .* of an earlier version"):
        folder.check(tmp_path / "out")
    done = command("--sensor=s1")
    assert done.returncode == 2 and "required: --workdir, --out" in done.stderr


def test_command_ends_with_one_line_when_there_is_no_checkpoint(tmp_path):
    done = commands.run("-m", "dual_encoder.export", f"--workdir={tmp_path}", "--sensor=s2",
                        f"--out={tmp_path / 'out'}")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert str(tmp_path) in done.stderr and "checkpoint" in done.stderr and not done.stdout


@pytest.fixture(scope="module")
def timm() -> types.ModuleType:
    torch = runtime("torch")
    torch.set_num_threads(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails at import because
        # two of them are not declared. timm's ResNets use neither.
        try:
            runtime("torchvision")
        except RuntimeError:
            operators = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return runtime("timm")


def image(height: int, width: int, bands: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((2, height, width, bands)).astype(np.float32)


def forward(model, x: np.ndarray) -> list[np.ndarray]:
    """Answers of a torch model with several maps for x [batch, h, w, bands], as [batch, h, w, channels]."""
    import torch

    with torch.no_grad():
        return [m.permute(0, 2, 3, 1).numpy() for m in model(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous())]


def assert_same(ours, theirs, tolerance=2e-6):
    errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]
    print("relative errors", *(f"{e:.1e}" for e in errors))
    assert max(errors) <= tolerance, errors


# n rounded terms in any order differ by about sqrt(n) x 6e-8. Convolutions over 9 x 512 channels under GroupNorm, which
# divides by what it has just summed up, and a transformer's products of 4096 terms: 4e-6.
LONG_SUMS = 4e-6


@pytest.mark.runtimes
@pytest.mark.slow
@pytest.mark.parametrize(("depth", "norm"), [(18, "batch"), (50, "batch"), (101, "batch"), (50, "group")])
def test_timm_computes_the_same_maps_from_an_export(timm, tmp_path, depth, norm):
    network = ResNet(depth, norm=norm)
    model = checkpoint(network)
    export(model, "s2", tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    variables = own(model, "s2")
    ours = jax.jit(lambda v, x: network.apply(v, x, False).maps)
    for height, width in ((120, 120), (128, 128), (264, 264), (121, 65)):
        x = image(height, width, 12)
        assert_same(ours(variables, x), forward(theirs, x), LONG_SUMS if norm == "group" else 2e-6)


@pytest.mark.runtimes
@pytest.mark.parametrize(("depth", "norm"), [(18, "batch"), (34, "batch"), (50, "batch"), (101, "batch"),
                                             (50, "group")])
def test_weights_of_timm_load_here(timm, depth, norm):
    import torch

    torch.manual_seed(0)
    theirs = timm.create_model("resnet50_gn" if norm == "group" else f"resnet{depth}", in_chans=2,
                               features_only=True).eval()
    for key, value in theirs.state_dict().items():
        if value.ndim == 1:  # norms; they are not random in a new model
            value.copy_(torch.from_numpy(weight(key, tuple(value.shape))))
    network = ResNet(depth, norm=norm)
    variables = from_timm({key: value.numpy() for key, value in theirs.state_dict().items()}, shapes(network, 2))
    ours = jax.jit(lambda v, x: network.apply(v, x, False).maps)
    for height, width in ((120, 120), (75, 131)):
        x = image(height, width, 2)
        assert_same(ours(variables, x), forward(theirs, x), LONG_SUMS if norm == "group" else 2e-6)


@pytest.mark.runtimes
@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width", "pool", "positions", "sizes"), [
    (12, 384, "token", "learned", ((96, 96), (128, 80), (50, 61))), (12, 768, "mean", "learned", ((96, 96), (50, 61))),
    (3, 1024, "token", "sincos", ((50, 61),)), (3, 192, "patches", "sincos", ((96, 96), (50, 61)))])
def test_timm_computes_the_same_vectors_and_maps_of_transformers(timm, tmp_path, depth, width, pool, positions, sizes):
    """S, B and some of L, at the kept size and at others; and the weights come back as they went."""
    import torch

    network = ViT(depth, width, 16, 96, pool, positions)
    model = checkpoint(network, ("s2",))
    export(model, "s2", tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    variables = own(model, "s2")
    back = from_timm({key: value.numpy() for key, value in theirs.state_dict().items()}, shapes(network, 12))
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    ours = jax.jit(lambda v, x: network.apply(v, x, False))
    for height, width in sizes:
        x = image(height, width, 12)
        with torch.no_grad():
            inputs = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
            last, maps = theirs.forward_intermediates(inputs, output_fmt="NCHW")
            answers = [theirs.forward_head(last).numpy(), *(m.permute(0, 2, 3, 1).numpy() for m in maps)]
        features = ours(variables, x)
        assert_same([features.pooled, *features.maps], answers, LONG_SUMS)


@pytest.mark.runtimes
@pytest.mark.parametrize(("name", "network"), [
    ("vit_small_patch16_224", ViT(12, 384, 16, 96)), ("vit_base_patch16_224", ViT(12, 768, 16, 96)),
    ("vit_large_patch16_224", ViT(24, 1024, 16, 96)), ("vit_small_patch8_224", ViT(12, 384, 8, 96))])
def test_the_published_transformers_of_timm_take_the_weights_by_name(timm, name, network):
    import torch

    with torch.device("meta"):  # shapes only
        theirs = timm.create_model(name, num_classes=0, in_chans=12, img_size=96)
        zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes(network, 12))
        state = {key: torch.empty(value.shape) for key, value in to_timm(zeros).items()}
    result = theirs.load_state_dict(state, assign=True)
    assert result.missing_keys == [] and result.unexpected_keys == []


@pytest.mark.runtimes
def test_sincos_positions_are_those_of_timm(timm):
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed

    np.testing.assert_allclose(sincos(7, 192), build_sincos2d_pos_embed([7, 7], 192), rtol=0, atol=1e-6)


@pytest.mark.runtimes
@pytest.mark.parametrize("network", [
    ResNet(18, 64), ResNet(18, 16), ResNet(50, 8), ResNet(101, 8, "group"), ResNet(18, 64, "group"), TINY_VIT,
    TINY_VIT.clone(pool="mean", patch=16), TINY_VIT.clone(pool="patches", patch=16), ViT(12, 192, 16, 64)])
def test_the_snippet_of_the_card_runs_and_gives_our_pooled_features(timm, tmp_path, network):
    model = checkpoint(network)
    card = export(model, "s1", tmp_path).paths[2].read_text()
    snippet = re.search("```python\n(.*?)```", card, re.DOTALL)[1].replace('folder = "."', f'folder = "{tmp_path}"')
    import torch

    x, spec = image(128, 128, 2)[:1], SENSORS["s1_grd"]
    stored = np.moveaxis(x * np.array(spec.std) + np.array(spec.mean), -1, 1).astype(np.float32)
    assert "torch.zeros(1, 2, 128, 128)" in snippet
    values: dict = {"stored_image": torch.from_numpy(stored)}
    exec(snippet.replace("torch.zeros(1, 2, 128, 128)", "stored_image"), values)
    variables = own(model, "s1")
    features = jax.jit(lambda v, x: network.apply(v, x, False).pooled)(variables, x)
    assert values["features"].shape == features.shape
    # GroupNorm divides by the spread of few values in a narrow network, 101 times in a row.
    group = isinstance(network, ResNet) and network.norm == "group"
    assert_same([features], [values["features"].numpy()], 1e-5 if group else 2e-6)
    if isinstance(network, ViT) or network.width == 64:  # the trap that the card warns of: no error
        maps = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(0, 1))
        tolerance = LONG_SUMS if getattr(network, "norm", "") == "group" else 2e-6
        ours = jax.jit(lambda v, x: network.apply(v, x, False).maps[:2])(variables, x)
        assert_same(ours, forward(maps.eval(), x), tolerance)
        wrong = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=3)
        assert next(value for value in wrong.parameters() if value.ndim == 4).shape[1] == 3
    else:
        assert "refuses it" in card
        with pytest.raises((RuntimeError, ValueError), match="size mismatch|must be divisible"):
            timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
