"""Published weights as workdirs: layouts, bands, normalisation, round trips through an export, bad files.

tests/test_import_weights_torch.py compares the forward passes with the public definitions in PyTorch.
"""

import hashlib
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from safetensors.numpy import load_file, save_file

from dual_encoder.errors import UserError
from dual_encoder.experiment import leaks
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec, sensor
from dual_encoder.import_weights import source, workdir
from dual_encoder.models.resnet import ResNet
from dual_encoder.models.vit import ViT
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import EvaluateConfig
from dual_encoder.tasks.build import build as build_task
from dual_encoder.training.evaluate import evaluate
from dual_encoder.training.run import run
from dual_encoder.weights import published
from dual_encoder.weights.first_layer import for_bands
from dual_encoder.weights.normalisation import normalised
from dual_encoder.weights.timm_keys import to_timm
from dual_encoder.workdir.checkpoint import load_model
from tests.runs import configure

RESNET, VIT = ResNet(18, 8), ViT(depth=2, width=128, patch=8, image_size=48)
L1C = sensor("s2_l1c").bands


def state(model, bands, seed=0):
    """timm's state dict of a network with made-up values."""
    template = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, bands)), False))
    rng = np.random.default_rng(seed)

    def value(key, leaf):
        positive = key.endswith("running_var") or leaf.ndim == 1 and key.endswith("weight")
        return (rng.uniform(0.5, 1.5, leaf.shape) if positive else 0.1 * rng.normal(size=leaf.shape)).astype(np.float32)

    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    return {key: value(key, leaf) for key, leaf in to_timm(zeros).items()}


def wanted(file, layout, name, **options):
    usual = {"file_bands": (), "rule": "", "normalisation": ""}
    return source.Wanted(file, layout, options.pop("spec", None) or sensor(name), **usual | options)


def imported(folder, weights, layout="timm", name="s2_l1c", **options):
    """Writes weights as a file and imports them to folder/run; returns the checkpoint."""
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "weights.safetensors")
    one = source.load(wanted(folder / "weights.safetensors", layout, name, **options))
    workdir.write({one.sensor.feature: one}, epath.Path(folder / "run"))
    return load_model(folder / "run")


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("model", [RESNET, ResNet(50, 8, "group"), VIT, VIT.clone(pool="mean")])
def test_an_export_comes_back_bit_by_bit(tmp_path, model):
    weights = state(model, 13)
    first = imported(tmp_path / "a", weights, file_bands=L1C, normalisation="two_sigma")
    export(Source(first, "s2"), tmp_path / "exported")
    again = source.load(wanted(tmp_path / "exported", "timm", "s2_l1c"))
    workdir.write({"s2": again}, epath.Path(tmp_path / "b"))
    second = load_model(tmp_path / "b")
    assert same(second.variables, first.variables) and second.sensors == first.sensors
    assert second.config["encoder"] == first.config["encoder"]
    export(Source(second, "s2"), tmp_path / "again")
    back = load_file(tmp_path / "again" / "model.safetensors")
    assert back.keys() == weights.keys() and all(np.array_equal(back[key], weights[key]) for key in weights)


def test_another_band_order_unit_or_sensor_shows_both_lists(tmp_path):
    first = imported(tmp_path, state(RESNET, 12), name="s2_l2a", file_bands=sensor("s2_l2a").bands,
                     normalisation="sensor")
    export(Source(first, "s2"), tmp_path / "exported")
    with pytest.raises(UserError, match="bands differ.*'B12'.*'s2_l1c'.*'B10', 'B11'"):
        source.load(wanted(tmp_path / "exported", "timm", "s2_l1c"))
    card = json.loads((tmp_path / "exported" / "config.json").read_text())
    card["dual_encoder"]["sensor"]["unit"] = "top-of-atmosphere reflectance"
    (tmp_path / "exported" / "config.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="unit differ.*top-of-atmosphere.*surface reflectance"):
        source.load(wanted(tmp_path / "exported", "timm", "s2_l2a"))
    with pytest.raises(UserError, match=r"of sensor 's2_l1c' \(B01.*B10.*'s2_l2a' \(B01.*give --sensor=s2_l1c"):
        imported(tmp_path / "b", state(RESNET, 13), layout="ssl4eo_moco", name="s2_l2a")


def wrap(prefix, weights, **others):
    return {f"{prefix}{key}": value for key, value in weights.items()} | others


ONE = np.ones(1, np.float32)
WEIGHTS13 = state(RESNET, 13)
LAYOUTS = [  # layout, sensor, content of the file, what is left out
    ("torchvision", "s2_rgb", state(RESNET, 3) | {"fc.weight": ONE, "fc.bias": ONE},
     "classifier or projection head: 2 arrays"),
    ("torchgeo", "s2_l1c", WEIGHTS13, "nothing"),
    ("ssl4eo_moco", "s2_l1c",
     wrap("module.encoder_q.", WEIGHTS13) | wrap("module.encoder_k.", WEIGHTS13) | {
         "module.encoder_q.fc.0.weight": ONE, "module.queue": ONE},
     f"classifier or projection head: 1 array; momentum encoder: {len(WEIGHTS13)} arrays; queue of negatives: 1 array"),
    ("ssl4eo_moco", "s2_l1c", wrap("module.base_encoder.", state(VIT, 13)) | {"module.predictor.0.weight": ONE},
     "prediction head: 1 array"),
    ("ssl4eo_dino", "s1_grd", wrap("backbone.", state(VIT, 2)) | {"head.last_layer.weight_v": ONE},
     "projection head: 1 array"),
    ("ssl4eo_mae", "s2_l1c", state(VIT, 13) | {"decoder_blocks.0.norm1.bias": ONE, "mask_token": ONE},
     "decoder: 2 arrays"),
    ("decur", "s1_grd",
     wrap("module.backbone_1.", state(RESNET, 2)) | wrap("module.backbone_2.", WEIGHTS13) | {
         "module.projector1.0.weight": ONE, "module.bn.running_mean": ONE},
     f"encoder of S2: {len(WEIGHTS13)} arrays; projection heads: 1 array; normalisation of the loss: 1 array"),
]


@pytest.mark.parametrize(("layout", "name", "content", "left_out"), LAYOUTS)
def test_each_layout_gives_the_encoder_and_names_the_rest(tmp_path, layout, name, content, left_out):
    model = imported(tmp_path, content, layout, name)
    feature = sensor(name).feature
    bare = {}
    for key, value in content.items():
        for prefix in ("module.encoder_q.", "module.base_encoder.", "module.backbone_1.", "backbone."):
            bare[key.removeprefix(prefix)] = value
    ours = to_timm({kind: tree[f"{feature}_encoder"] for kind, tree in model.variables.items() if tree})
    if name == "s2_rgb":  # by name: the sensor has the order of the file
        assert model.sensors["s2"].bands == ("B04", "B03", "B02")
    assert all(np.array_equal(ours[key], bare[key]) for key in ours)
    assert set(model.dataset["source"]["left out"].split("; ")) == set(left_out.split("; "))
    assert model.dataset["source"]["layout"] == layout and model.step == 0
    assert model.config["encoder"].get("positions") == (
        None if "image_size" not in model.config["encoder"] else
        "sincos" if layout in ("ssl4eo_mae", "ssl4eo_moco") else "learned")


def test_the_projection_head_of_a_workdir_is_the_identity(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 128)).astype(np.float32)
    for folder, model, values in (("a", VIT, x), ("b", RESNET, np.abs(x[:, :64]))):
        head = imported(tmp_path / folder, state(model, 13), "torchgeo").variables["params"]["s2_head"]
        hidden = np.maximum(values @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
        np.testing.assert_array_equal(hidden @ head["out"]["kernel"] + head["out"]["bias"], values)


def pooled(weights, image):
    config = published.encoder(weights, False)
    return np.asarray(config.make().apply(published.variables(weights, config), jnp.asarray(image), False).pooled)


def assert_close(ours, theirs):
    """To the rounding of sums over 72 x 64 channels, in any order: 4e-6 of the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6 * np.abs(theirs).max())


def test_rules_for_other_bands_do_what_they_say():
    weights, rng = state(RESNET, 4), np.random.default_rng(1)
    theirs = ("B02", "B03", "B04", "B08")
    image = rng.normal(size=(1, 40, 40, 4)).astype(np.float32)
    reference = pooled(weights, image)
    turned, said = for_bands(weights, theirs, ("B08", "B04", "B03", "B02"), "")
    assert said == "reordered from B02 B03 B04 B08"
    assert_close(pooled(turned, image[..., ::-1]), reference)
    without = np.where(np.array(theirs) == "B08", 0, image).astype(np.float32)
    chosen, said = for_bands(weights, theirs, ("B02", "B03", "B04"), "select")
    assert said == "left out: B08"
    assert_close(pooled(chosen, image[..., :3]), pooled(weights, without))
    more = np.concatenate([image, rng.normal(size=(1, 40, 40, 1))], axis=-1).astype(np.float32)
    zeros, said = for_bands(weights, theirs, (*theirs, "B11"), "zero")
    assert said == "zeros for B11"
    assert_close(pooled(zeros, more), reference)
    mean, said = for_bands(weights, theirs, (*theirs, "B11"), "mean")
    assert said == "mean of all kernels for B11"
    spread = image + more[..., 4:] / 4  # a band that every kernel sees by a quarter
    assert_close(pooled(mean, more), pooled(weights, spread))
    for rule, bands, message in (("", theirs[:3], "B02 B03 B04 B08, the sensor has B02 B03 B04; .* --adapt=select"),
                                 ("select", ("B02", "B11"), r"without B11, or --adapt=mean")):
        with pytest.raises(UserError, match=message):
            for_bands(weights, theirs, bands, rule)


def test_normalisation_is_that_of_the_published_code():
    rng = np.random.default_rng(2)
    optical = rng.integers(1, 20000, (2, 8, 8, 13)).astype(np.uint16)
    radar = rng.integers(-4000, 1000, (2, 8, 8, 2)).astype(np.int16)
    radar[0, 0, 0] = -32768
    for name, stored, key in (("s2_l1c", optical, "reflectance_clipped"), ("s2_l1c", optical, "reflectance"),
                              ("s1_grd", radar, "two_sigma"), ("s1_grd", radar, "torchgeo")):
        spec = normalised(sensor(name), key)
        values, mean, std = stored.astype(np.float64), np.array([-12.548, -20.192]), np.array([5.257, 5.912])
        expected = {
            "reflectance_clipped": lambda x: np.clip(x / 10000, 0, 1), "reflectance": lambda x: x / 10000,
            # zhu-xlab/SSL4EO-S12, ssl4eo_dataset.py: normalize, of dB, without its rounding to 8 bit
            "two_sigma": lambda x, m=mean, s=std: np.clip((x / 100 - (m - 2 * s)) / (4 * s), 0, 1),
            "torchgeo": lambda x: (x / 100 - [-12.59, -20.26]) / [5.26, 5.91]}[key](values)
        expected = np.where(spec.holds_data(stored)[..., None], expected, 0)
        np.testing.assert_allclose(normalise(jnp.asarray(stored), spec), expected, rtol=0, atol=3e-6)
        assert SensorSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert normalised(sensor("s2_rgb"), "imagenet").mean == (0.485 * 255, 0.456 * 255, 0.406 * 255)
    assert "limits" not in sensor("s2_l2a").to_json()  # stored facts of earlier runs stay as they are
    for name, key, message in (("s1_grd", "reflectance", "is of reflectance, sensor 's1_grd'"),
                               ("s2_l2a", "imagenet", "B04 B03 B02"), ("s2_l2a", "sensr", "did you mean 'sensor'")):
        with pytest.raises(UserError, match=message):
            normalised(sensor(name), key)


@pytest.mark.slow
def test_evaluation_fine_tuning_and_leak_checks_take_the_workdir(tmp_path, write_dataset):
    imported(tmp_path, state(RESNET, 12), name="s2_l2a", file_bands=sensor("s2_l2a").bands, normalisation="reflectance")
    pairs, tiles = write_dataset(size=40), write_dataset(size=40, labels=True)
    init = str(tmp_path / "run")
    config = EvaluateConfig("evaluate", init, -1, str(pairs), "test", 0, 0, "", ("retrieval",), 8)
    evaluate(config, mesh.make(), epath.Path(tmp_path / "scores"))
    scores = json.loads((tmp_path / "scores" / "evaluation" / "scores.json").read_text())
    assert scores["s2_to_s2_turned"]["gallery_size"] == 8
    with pytest.raises(UserError, match="imported weights, .* give --config.data_dir"):
        evaluate(EvaluateConfig("evaluate", init, -1, "", "", 0, 0, "", (), 8), mesh.make(), epath.Path(init))
    tuned = configure(tiles, "water_weak", init_from=init, inputs="s2", encoder__depth=18)
    built = build_task(tuned, mesh.make())
    assert built.task.sensors["s2"].mean == (0.0,) * 12
    run(tuned, mesh.make(), epath.Path(tmp_path / "tuned"))
    assert load_model(tmp_path / "tuned").sensors["s2"].std == (10000.0,) * 12
    values = json.loads((tmp_path / "tuned" / "config.json").read_text())
    values["data"]["subset"] |= {"folds": 2}
    assert "were trained elsewhere" in leaks.check(values)[-1]


def command(*flags):
    return subprocess.run([sys.executable, "-m", "dual_encoder.import_weights", *flags], capture_output=True, text=True)


def test_the_command_says_what_it_did_and_may_run_again(tmp_path):
    file = tmp_path / "joint.safetensors"
    save_file(wrap("module.backbone_1.", state(RESNET, 2)) | wrap("module.backbone_2.", WEIGHTS13), file)
    flags = (f"--from={file}", "--layout=decur", "--sensor=s1_grd", "--sensor=s2_l1c", f"--out={tmp_path / 'w'}")
    for done in (command(*flags), command(*flags)):
        assert done.returncode == 0, done.stderr
    for line in ("s1_encoder: resnet of depth 18 and width 8, for s1_grd: VV VH", "s2_encoder: ", "as published",
                 "normalisation: two_sigma (mean - 2 std", f"left out: encoder of S1: {len(state(RESNET, 2))} arrays"):
        assert line in done.stdout, done.stdout
    assert load_model(tmp_path / "w").config["inputs"] == "s1+s2"
    rgb = (f"--from={file}", "--layout=decur", "--sensor=s2_l1c", "--bands=B04,B03,B02")
    done = command(*rgb, f"--out={tmp_path / 'w'}")
    assert done.returncode == 2 and "holds a run with" in done.stderr and done.stderr.count("\n") == 1, done.stderr
    done = command(*rgb, f"--out={tmp_path / 'r'}")
    assert done.returncode == 0 and "for s2_l1c:B02+B03+B04: B02 B03 B04" in done.stdout, done.stderr
    assert "left out: B01 B05" in done.stdout


def test_bad_files_get_one_line(tmp_path):
    good, save = state(VIT, 13), tmp_path / "weights.safetensors"
    save_file(good, save)
    data = save.read_bytes()

    def refused(layout="torchgeo", content=None, name="weights.safetensors", raw=None, **options):
        file = tmp_path / name
        file.write_bytes(data if raw is None else raw)
        if content is not None:
            save_file(content, file)
        with pytest.raises(UserError) as caught:
            source.load(wanted(file, layout, "s2_l1c", **options))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "copy or download it again" in refused(raw=data[:-100])
    assert "its name says 01234567" in refused(name="vit-01234567.safetensors")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  weights.safetensors\n")
    assert "SHA256SUMS says" in refused(raw=data[:-1] + bytes([data[-1] ^ 1]))
    (tmp_path / "SHA256SUMS").unlink()
    assert "is no file of weights" in refused(name="weights.h5")
    assert "torch is not installed" in refused(name="weights.pth") or "torch" in sys.modules
    assert "unknown layout 'torchgeoo'; did you mean 'torchgeo'" in refused("torchgeoo")
    assert "'croma' cannot be imported: its attention has heads of 48" in refused("croma")
    assert "by one pixel" in refused("dofa")
    moved = wrap("module.base_encoder.", good)
    assert "not of layout 'torchgeo': it starts with the keys module.base_encoder.blocks.0.attn.proj.bias, " in (
        line := refused(content=moved)) and line.endswith("try --layout=ssl4eo_moco")
    assert "missing 1 (blocks.1.attn.qkv.bias)" in refused(
        content={key: value for key, value in good.items() if key != "blocks.1.attn.qkv.bias"})
    assert "unexpected 1 (blocks.0.extra)" in refused(content=good | {"blocks.0.extra": ONE})
    for content, message in (
            ({"blocks.0.ls1.gamma": ONE}, "of SoftCon or DINOv2 ('blocks.0.ls1.gamma'), which cannot be imported"),
            ({"patch_embed.weight_generator.weight_tokens": ONE, "fc_norm.weight": ONE}, "holds weights of DOFA"),
            ({"s1_encoder.linear_input.weight": ONE, "s1_GAP_FFN.0.weight": ONE}, "holds weights of CROMA")):
        for layout in ("timm", "torchgeo", "ssl4eo_moco"):
            assert message in refused(layout, content=good | content)
            assert message in refused(layout, content=content)
    assert "--beside" in refused("softcon") and "14 pixels" in refused("dinov2")
    deep = WEIGHTS13 | {key.replace("layer3.1", "layer3.2"): value for key, value in WEIGHTS13.items()}
    assert "a ResNet with 2, 2, 3, 2 blocks in its layers" in refused(content=deep)
    assert "deformable attention" in refused("decur", content=good | {"da1_l3.proj_q.weight": ONE})
    assert "takes 5 bands, and layout 'torchgeo' does not say which" in refused(content=state(RESNET, 5))
    assert "does not say how optical images are normalised" in refused("timm", file_bands=L1C)
