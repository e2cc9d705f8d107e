"""Published weights as workdirs: layouts, bands, normalisation, round trips through an export, bad files.

tests/test_import_weights_torch.py compares the forward passes with the public definitions in PyTorch.
"""

import dataclasses
import hashlib
import json
import pathlib
import runpy
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
from dual_encoder.weights import dofa, files, layouts, published
from dual_encoder.weights.first_layer import for_bands
from dual_encoder.weights.normalisation import normalised
from dual_encoder.weights.timm_keys import to_timm
from dual_encoder.workdir.checkpoint import load_model
from tests import commands
from tests.runs import configure

RESNET, VIT = ResNet(18, 8), ViT(depth=2, width=128, patch=8, image_size=48)
GOLDEN = pathlib.Path(__file__).parent / "golden"
golden = runpy.run_path(str(GOLDEN / "make_dofa.py"))
L1C, L2A = sensor("s2_l1c").bands, sensor("s2_l2a").bands


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


@pytest.mark.parametrize("model", [RESNET, ResNet(50, 8, "group"), VIT, VIT.clone(pool="mean"),
                                   VIT.clone(pool="patches")])
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


def croma(width=32, depth=1):
    """A file of CROMA by torchgeo's keys, with made-up values; `depth` is that of the radar encoder."""
    shapes = {"joint_encoder.norm_out.weight": (width,), "attn_bias": (1, 16, 9, 9)}
    linear = {"linear_input": (width, 0), "transformer.norm_out": (width,)}
    for name, bands, blocks in (("s1", 2, depth), ("s2", 12, 2 * depth)):
        of = linear | {"linear_input": (width, 64 * bands)}
        for block in range(blocks):
            of |= {f"transformer.layers.{block}.{key}": shape for key, shape in (
                ("0.input_norm", (width,)), ("0.to_qkv", (3 * width, width)), ("0.to_out", (width, width)),
                ("1.input_norm", (width,)), ("1.net.0", (4 * width, width)), ("1.net.3", (width, 4 * width)))}
        of = {f"{name}_encoder.{key}": shape for key, shape in of.items()}
        of |= {f"{name}_GAP_FFN.{key}": shape for key, shape in (
            ("0", (width,)), ("1", (4 * width, width)), ("3", (width, 4 * width)))}
        shapes |= {f"{key}.weight": shape for key, shape in of.items()}
        shapes |= {f"{key}.bias": shape[:1] for key, shape in of.items() if not key.endswith("to_qkv")}
    rng = np.random.default_rng(0)
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def test_croma_gives_the_encoder_of_a_sensor(tmp_path):
    content = croma()
    model = imported(tmp_path, content, "croma", "s1_grd")
    assert model.config["encoder"] == {"family": "croma", "depth": 1, "width": 32, "remat": False, "dtype": "float32"}
    params = model.variables["params"]["s1_encoder"]
    kernel, linear = params["patch_embed"]["kernel"], content["s1_encoder.linear_input.weight"]
    for row, column, band, channel in ((0, 0, 0, 0), (3, 7, 1, 31), (5, 2, 0, 9)):
        assert kernel[row, column, band, channel] == linear[channel, band * 64 + row * 8 + column]
    for ours, theirs in (("attn_qkv", "0.to_qkv"), ("mlp_fc2", "1.net.3")):
        np.testing.assert_array_equal(params["blocks_0"][ours]["kernel"],
                                      content[f"s1_encoder.transformer.layers.0.{theirs}.weight"].T)
    np.testing.assert_array_equal(params["gap_fc1"]["bias"], content["s1_GAP_FFN.1.bias"])
    assert len(jax.tree.leaves(params)) == sum(key.startswith("s1_") for key in content)
    assert model.sensors["s1"].limits == (0, 1) and set(model.dataset["source"]["left out"].split("; ")) == {
        f"encoder of S2: {sum(key.startswith('s2_') for key in content)} arrays", "joint encoder: 1 array",
        "attention bias, which is computed: 1 array"}


def test_croma_is_read_from_nested_files_and_takes_other_bands(tmp_path):
    content, tree = croma(), {}
    for key, value in content.items():
        group, _, inner = key.partition(".")
        tree.setdefault(group, {})[inner] = value
    tree["attn_bias"] = content["attn_bias"]
    read = [published.find(files.Weights(tmp_path, "", some), "croma", layouts.LAYOUTS["croma"], "s2")
            for some in (tree, content)]
    assert same(read[0].weights, read[1].weights) and read[0].left_out == read[1].left_out
    save_file(content, tmp_path / "weights.safetensors")
    both = {sensor(name).feature: source.load(wanted(tmp_path / "weights.safetensors", "croma", name))
            for name in ("s1_grd", "s2_l2a")}
    with pytest.raises(UserError, match="depth=1, .*depth=2, .*import them to workdirs of their own"):
        workdir.write(both, epath.Path(tmp_path / "both"))
    model = imported(tmp_path, content, "croma", spec=sensor("s2_l2a").subset(["B02", "B12"]), rule="select")
    kernel, linear = (model.variables["params"]["s2_encoder"]["patch_embed"]["kernel"],
                      content["s2_encoder.linear_input.weight"].reshape(32, 12, 8, 8))
    np.testing.assert_array_equal(kernel, linear[:, [1, 11]].transpose(2, 3, 1, 0))


def dofa_network(width):
    """The network that makes the first layer of a DOFA, by the keys of its file."""
    layer = "weight_generator.transformer_encoder.layers.0."
    shapes = {"fclayer.w1": (128, 128), "fclayer.w2": (128, 128), "weight_generator.fc_weight": (256 * width, 128),
              "weight_generator.fc_bias": (width, 128)} | {f"{layer}{key}": shape for key, shape in (
                  ("self_attn.out_proj", (128, 128)), ("linear1", (2048, 128)), ("linear2", (128, 2048)),
                  ("norm1", (128,)), ("norm2", (128,)))}
    shapes = {f"{key}.weight": shape for key, shape in shapes.items()} | {
        f"{key}.bias": shape[:1] for key, shape in shapes.items()}
    shapes |= {f"{layer}self_attn.in_proj_weight": (384, 128), f"{layer}self_attn.in_proj_bias": (384,),
               "weight_generator.weight_tokens": (128, 128), "weight_generator.bias_token": (1, 128)}
    return {f"patch_embed.{key}": golden["weight"](key, shape) for key, shape in shapes.items()}


def dofa_file():
    """A file of DOFA as its authors publish it, with one block for images of 32 px; and the norm that it lacks."""
    vit = {key: value for key, value in state(ViT(1, 64, 16, 32, "patches"), 1).items() if "patch_embed" not in key}
    norm = {key: vit.pop(key) for key in ("fc_norm.weight", "fc_norm.bias")}
    rest = {"mask_token": ONE, "norm.weight": ONE, "norm.bias": ONE, "projector.weight": ONE}
    return vit | dofa_network(64) | rest, norm


def test_dofa_becomes_a_vit_for_the_bands_of_any_sensor(tmp_path):
    content, norm = dofa_file()
    one = {}
    for name, spec in (("s1_grd", None), ("s2_l2a", sensor("s2_l2a").subset(["B03", "B11"]))):
        model = imported(tmp_path / name, content, "dofa", name, spec=spec, rule="select" if spec else "")
        assert model.config["encoder"] == {
            "family": "vit", "depth": 1, "width": 64, "patch": 16, "image_size": 32, "pool": "patches", "shift": 1,
            "positions": "sincos", "remat": False, "dtype": "float32"}
        params = one[name] = model.variables["params"][f"{model.config['inputs']}_encoder"]
        assert params["patch_embed"]["kernel"].shape == (16, 16, 2, 64)
        assert (params["fc_norm"]["scale"] == 1).all() and not params["fc_norm"]["bias"].any()
        facts = model.dataset["source"]
        assert facts["not in the file"] == "fc_norm.weight is 1, fc_norm.bias is 0, as in the published code"
        assert set(facts["left out"].split("; ")) == {
            "decoder: 1 array", "norm of the training: 2 arrays", "projection head of the training: 1 array"}
        assert model.sensors[model.config["inputs"]].mean == (spec or sensor(name)).mean
    with_norm = imported(tmp_path / "n", content | norm | {"head.weight": ONE}, "dofa", "s1_grd")
    assert "not in the file" not in with_norm.dataset["source"]
    np.testing.assert_array_equal(with_norm.variables["params"]["s1_encoder"]["fc_norm"]["scale"],
                                  norm["fc_norm.weight"])
    np.testing.assert_array_equal(with_norm.variables["params"]["s1_encoder"]["patch_embed"]["kernel"],
                                  one["s1_grd"]["patch_embed"]["kernel"])


@pytest.mark.parametrize(("case", "bands"), [("radar", ("VV", "VH")), ("rgb", ("B04", "B03", "B02")),
                                             ("swir", ("B12", "B11"))])
def test_the_first_layer_of_dofa_is_that_of_torchgeo(case, bands):
    assert golden["CASES"][case] == tuple(dofa.WAVELENGTHS[band] for band in bands)
    made = dofa.for_bands(dofa_network(golden["WIDTH"]), bands)
    with np.load(GOLDEN / "dofa.npz") as answers:
        assert_close(made["patch_embed.proj.weight"][:, :, ::5, ::5], answers[f"{case}/kernel"])
        assert_close(made["patch_embed.proj.bias"], answers[f"{case}/bias"])


def pooled(weights, image):
    config = published.encoder(weights, layouts.LAYOUTS["timm"])
    apply = jax.jit(lambda variables, image: config.make().apply(variables, image, False).pooled)
    return np.asarray(apply(published.variables(weights, config), image))


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
        ours = jax.jit(lambda image, spec=spec: normalise(image, spec))(stored)
        np.testing.assert_allclose(ours, expected, rtol=0, atol=3e-6)
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


def test_evaluation_and_fine_tuning_take_a_croma(tmp_path, write_dataset):
    model = imported(tmp_path, {key: 0.1 * value for key, value in croma().items()}, "croma", "s1_grd")
    init, pairs = str(tmp_path / "run"), write_dataset(size=40)
    evaluate(EvaluateConfig("evaluate", init, -1, str(pairs), "test", 0, 0, "", ("retrieval",), 8), mesh.make(),
             epath.Path(tmp_path / "scores"))
    scores = json.loads((tmp_path / "scores" / "evaluation" / "scores.json").read_text())
    assert scores["s1_to_s1_turned"]["gallery_size"] == 8
    tuned = configure(write_dataset(size=40, labels=True), "water_weak", init_from=init, inputs="s1")
    task = build_task(tuned, mesh.make()).task
    params, _ = task.init(jax.random.key(0))
    assert same(params["s1_encoder"], model.variables["params"]["s1_encoder"])
    assert task.sensors["s1"].limits == (0, 1)


def command(*flags):
    return commands.run("-m", "dual_encoder.import_weights", *flags)


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

    def refused(layout="torchgeo", content=None, name="weights.safetensors", raw=None, of="s2_l1c", **options):
        file = tmp_path / name
        file.write_bytes(data if raw is None else raw)
        if content is not None:
            save_file(content, file)
        with pytest.raises(UserError) as caught:
            source.load(wanted(file, layout, of, **options))
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
    moved = wrap("module.base_encoder.", good)
    assert "not of layout 'torchgeo': it starts with the keys module.base_encoder.blocks.0.attn.proj.bias, " in (
        line := refused(content=moved)) and line.endswith("try --layout=ssl4eo_moco")
    assert "missing 1 (blocks.1.attn.qkv.bias)" in refused(
        content={key: value for key, value in good.items() if key != "blocks.1.attn.qkv.bias"})
    assert "unexpected 1 (blocks.0.extra)" in refused(content=good | {"blocks.0.extra": ONE})
    for layout in ("timm", "torchgeo", "ssl4eo_moco"):
        for content in ({}, good):
            assert "of SoftCon, DINOv2 or DOFA v2 ('blocks.0.ls1.gamma'), which cannot be imported" in refused(
                layout, content=content | {"blocks.0.ls1.gamma": ONE})
        assert refused(layout, content=dofa_file()[0]).endswith("try --layout=dofa")
        assert refused(layout, content=croma()).endswith("try --layout=croma")
    assert "with a stem of convolutions (vit_conv)" in refused("ssl4eo_moco", content={
        key.replace("proj.weight", "proj.0.weight") if "patch_embed" in key else key: value
        for key, value in good.items()})
    assert "after the mean of its tokens and no class token" in refused(
        "timm", content=state(VIT.clone(pool="mean"), 13) | {"fc_norm.weight": ONE}, file_bands=L1C)
    assert "--beside" in refused("softcon") and "14 pixels" in refused("dinov2")
    deep = WEIGHTS13 | {key.replace("layer3.1", "layer3.2"): value for key, value in WEIGHTS13.items()}
    assert "a ResNet with 2, 2, 3, 2 blocks in its layers" in refused(content=deep)
    assert "deformable attention" in refused("decur", content=good | {"da1_l3.proj_q.weight": ONE})
    assert "takes 5 bands, and layout 'torchgeo' does not say which" in refused(content=state(RESNET, 5))
    assert "does not say how optical images are normalised" in refused("timm", file_bands=L1C)

    content = croma()
    assert "of sensor 's2_l2a' (B01 B02" in refused("croma", content=content)
    optical = {key: value for key, value in content.items() if key.startswith("s2_")}
    assert "holds no encoder of 's1', but one of 's2'; give a sensor of that" in refused(
        "croma", content=optical, of="s1_grd")
    for key in ("s2_GAP_FFN.3.bias", "s2_encoder.transformer.layers.0.0.to_out.bias"):
        assert "missing 1 (" in refused("croma", of="s2_l2a", content={
            other: value for other, value in content.items() if other != key})
    assert "unexpected 1 (blocks.0.attn.qkv.bias)" in refused("croma", of="s2_l2a", content=content | {
        "s2_encoder.transformer.layers.0.0.to_qkv.bias": ONE})
    assert "unexpected key 's3_encoder.weight'" in refused("croma", content=content | {"s3_encoder.weight": ONE})
    short = {"s2_encoder.linear_input.weight": ONE, "s2_encoder.transformer.layers.0.0.input_norm.weight": np.ones(768)}
    assert "holds 1 blocks of width 768, the published network has 12" in refused("croma", of="s2_l2a", content=short)
    assert "not of layout 'croma'" in refused("croma", content=good)

    content = dofa_file()[0]
    assert "take any bands; leave it out" in refused("dofa", content=content, file_bands=L1C)
    assert "missing 1 (patch_embed.fclayer.w2.bias)" in refused("dofa", content={
        key: value for key, value in content.items() if key != "patch_embed.fclayer.w2.bias"})
    assert "unexpected 1 (patch_embed.fclayer.w3)" in refused("dofa", content=content | {"patch_embed.fclayer.w3": ONE})
    assert "unexpected 1 (blocks.0.extra)" in refused("dofa", content=content | {"blocks.0.extra": ONE})
    strange = dataclasses.replace(sensor("s1_grd"), name="lidar", bands=("VV", "L1"))
    assert "the wavelength of L1 is not known" in refused("dofa", content=content, spec=strange)
    file = files.read(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="cannot be imported: it mixes bands"):
        published.find(file, "dofa", dataclasses.replace(
            layouts.LAYOUTS["dofa"], withdrawn={file.sha256[:8]: "it mixes bands"}), "s2")
