"""Every export format against our model: whole models and encoders, in the runtime of the format."""

import functools
import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dual_encoder.errors import UserError
from dual_encoder.export import onnx_graph, samples
from dual_encoder.export.check import check
from dual_encoder.export.inputs import of_stored, prepare
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.storage import sums
from tests import commands
from tests.exports import RUNS, SMALL, WIDE, assert_the_card_gives_our_outputs, data_sets, made, run, source_of
from tests.runtimes import needs


@pytest.fixture(scope="module")
def data(write_dataset):
    return data_sets(write_dataset)


@pytest.fixture(scope="module")
def source(data):
    return functools.cache(lambda name: source_of(name, data))


@pytest.mark.parametrize("form", ["npz", "orbax"])
def test_parameters_alone_build_the_same_model(source, tmp_path, form):
    of = source("one_of_two")
    export(of, tmp_path, form)
    assert check(tmp_path).differences == {"logits": 0.0}
    assert_the_card_gives_our_outputs(tmp_path, ["logits"])


def test_npz_holds_the_parameters_bit_by_bit(source, tmp_path):
    of = source("unet")
    export(of, tmp_path, "npz")
    with np.load(tmp_path / "parameters.npz") as archive:
        leaves = jax.tree_util.tree_leaves_with_path(of.model.variables)
        assert len(archive.files) == len(leaves)
        for path, leaf in leaves:
            np.testing.assert_array_equal(archive[jax.tree_util.keystr(path, simple=True, separator="/")], leaf)


@pytest.mark.runtimes
@pytest.mark.slow
@pytest.mark.parametrize("name", ["encoders", "pyramid"])
def test_tensorflow_gives_our_outputs(source, tmp_path, name):
    export(source(name), tmp_path, "saved_model")
    assert_the_card_gives_our_outputs(tmp_path, source(name).network.outputs)


@pytest.mark.runtimes
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_onnxruntime_gives_our_outputs(source, tmp_path, name):
    needs("onnxruntime")
    export(source(name), tmp_path, "onnx")
    assert_the_card_gives_our_outputs(tmp_path, source(name).network.outputs)


@pytest.mark.runtimes
@pytest.mark.parametrize("kind", ["stored", "normalised"])
def test_onnx_takes_other_forms_of_input(source, tmp_path, kind):
    needs("onnxruntime")
    export(Source(source("classes").model, "s1", kind, 40), tmp_path, "onnx")
    assert_the_card_gives_our_outputs(tmp_path, ["logits"])


@pytest.mark.runtimes
@pytest.mark.slow
@pytest.mark.parametrize("encoder", [WIDE, SMALL], ids=["resnet18", "vit_small"])
@pytest.mark.parametrize("form", ["timm", "huggingface", "torchgeo", "terratorch"])
def test_runtimes_of_pytorch_give_our_outputs(data, tmp_path, form, encoder):
    for package in {"torchgeo": ["torchgeo"], "terratorch": ["terratorch"]}.get(form, ["timm"]):
        needs(package)
    export(Source(made(data, encoder=encoder), "s2"), tmp_path, form)
    names = {"s2_map"} if form == "terratorch" else {"s2_map", "s2_vector"}
    if form in ("torchgeo", "terratorch"):
        assert_the_card_gives_our_outputs(tmp_path, names)
    done = commands.run("-m", "dual_encoder.export", f"--check={tmp_path}")
    assert done.returncode == 0 and done.stdout.count("= ") == len(names), done.stdout + done.stderr


@pytest.mark.runtimes
@pytest.mark.slow
def test_terratorch_refuses_other_bands_and_gives_all_maps(data, tmp_path):
    needs("terratorch")
    export(Source(made(data, encoder=WIDE), "s1"), tmp_path, "terratorch")
    out = run(tmp_path, """
import runpy
from terratorch.registry import BACKBONE_REGISTRY
runpy.run_path("custom_modules/__init__.py")
print(BACKBONE_REGISTRY.build("dual_encoder", folder=".", bands=["VV", "VH"]).out_channels)
try:
    BACKBONE_REGISTRY.build("dual_encoder", folder=".", bands=["VH", "VV"])
except ValueError as error:
    print(error)
""")
    assert "[64, 64, 128, 256, 512]" in out
    assert "the data have the bands ['VH', 'VV'], the encoder takes ['VV', 'VH']" in out


@pytest.mark.parametrize("kind", ["stored", "physical", "normalised"])
@pytest.mark.parametrize("name", ["s1_grd", "s2_l2a", "s2_rgb"])
def test_every_form_of_input_becomes_the_same_image(name, kind):
    spec = SENSORS[name]
    limits = np.iinfo(spec.dtype)
    image = np.random.default_rng(0).integers(max(-4000, limits.min), min(9000, limits.max),
                                              (2, 6, 5, len(spec.bands))).astype(spec.dtype)
    image[0, 1:3] = spec.no_data or 0
    image[0, 4, 4, 0] = spec.no_data or 0  # one band alone is a value
    fed = of_stored({name: image}, {name: spec}, kind)[name]
    seen, expected = np.asarray(prepare(jnp.asarray(fed), spec, kind)), np.asarray(normalise(jnp.asarray(image), spec))
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    if spec.no_data is not None:
        assert not seen[0, 1:3].any() and seen[0, 4, 4].all()
    if kind == "physical":
        for value in (np.nan, -np.inf):
            fed[1, 0, 0, 0] = value
            assert not np.asarray(prepare(jnp.asarray(fed), spec, kind))[1, 0, 0].any()


def test_check_finds_other_weights_behind_right_digests(source, tmp_path):
    export(source("classes"), tmp_path, "npz")
    with np.load(tmp_path / "parameters.npz") as archive:
        arrays = dict(archive)
    arrays["params/classifier/kernel"] = arrays["params/classifier/kernel"] * np.float32(1.0001)
    np.savez(tmp_path / "parameters.npz", **arrays)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
               if path.name != sums.NAME}
    (tmp_path / sums.NAME).write_bytes(sums.to_text(digests))
    done = commands.run("-m", "dual_encoder.export", f"--check={tmp_path}")
    assert done.returncode == 1 and "FAILED, above 1e-05" in done.stdout, done.stdout


@pytest.mark.runtimes
def test_check_runs_no_code_that_the_export_brought(data, tmp_path):
    needs("torchgeo")
    export(Source(made(data, encoder=WIDE), "s2"), tmp_path, "torchgeo")
    (tmp_path / "weights.py").write_text("raise SystemExit('run')")
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()
               if path.name != sums.NAME}
    (tmp_path / sums.NAME).write_bytes(sums.to_text(digests))
    assert "is not the code that this version writes" in check(tmp_path).reason


def test_encoder_formats_say_what_they_leave_out(source, tmp_path):
    of = Source(source("unet").model, "s1")
    note = export(of, tmp_path, "timm").note
    assert "this format holds the encoder only: classifier, decoder0," in note and "s2_encoder" in note
    assert "of the fine-tuned model are left out" in (tmp_path / "README.md").read_text()


def test_card_for_programs_holds_all_facts_and_digests(source, tmp_path):
    of = source("unet")
    export(of, tmp_path, "npz", results={"scores": {"miou": 0.5}, "step": 2, "command": "main.py", "versions": {}})
    card = json.loads((tmp_path / "card.json").read_text())["dual_encoder"]
    assert card["format"] == "npz" and card["input"] == "stored" and card["task"] == "finetune"
    assert card["sensors"]["s2"]["bands"] == list(SENSORS["s2_l2a"].bands) and card["check"]["split"] == "test"
    assert card["dataset"]["fingerprint"] == of.model.dataset["fingerprint"] and card["results"]["scores"]
    for name, digest in card["files"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    text = (tmp_path / "README.md").read_text()
    for fact in ("0 dry, 1 wet", "| miou | 0.5 |", "`main.py`", "2 real images", "license: other"):
        assert fact in text, fact


def test_a_new_export_replaces_all_files_of_another_format(source, tmp_path):
    export(source("classes"), tmp_path, "orbax")
    export(source("classes"), tmp_path, "npz")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "README.md", "SHA256SUMS", "card.json", "check.npz", "model.json", "parameters.npz"]


@pytest.mark.slow
def test_the_benchmark_compares_with_the_parameters(source, tmp_path):
    for form in ("npz", "stablehlo"):
        export(source("classes"), tmp_path / form, form)
    done = commands.run("-m", "benchmarks.export", tmp_path, "--batch=2", "--repeats=1")
    assert done.returncode == 0 and re.search(r"stablehlo +[\d.]+ +[\d.]+ +[\d.]+\n$", done.stdout), done.stderr


@pytest.mark.parametrize(("name", "sensor", "form", "message"), [
    ("unet", "s1", "npz", "takes the images of s1 and s2 together; give --sensor=both"),
    ("early", "s1", "npz", "takes the stacked bands of s1 and s2; give --sensor=both"),
    ("encoders", "s3", "npz", "no images of sensor 's3'; did you mean"),
    ("encoders", "both", "timm", "this format holds one encoder, the checkpoint has those of s1 and s2"),
    ("encoders", "s1", "huggingface", "the stem of this ResNet is 8 channels wide, timm builds them 64 wide"),
    ("pyramid", "s1", "torchgeo", "torchgeo has no vit_base_patch16_224 with another depth, embed_dim"),
    ("transformer", "s2", "timm", "has patches that are shifted by 1 px, which timm cannot build; use --format=st"),
    ("croma", "s2", "terratorch", r"bias by distance \(CROMA\), which TerraTorch cannot build"),
])
def test_what_cannot_be_exported_is_one_line(source, tmp_path, name, sensor, form, message):
    with pytest.raises(UserError, match=message):
        export(Source(source(name).model, sensor), tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


@pytest.mark.runtimes
def test_an_operation_without_translation_is_named():
    needs("onnx")
    with pytest.raises(UserError, match="onnx: the operation 'sort' of the model has no translation"):
        onnx_graph.convert(lambda images: {"y": jnp.sort(images["x"])},
                           {"x": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, ["y"])


def test_small_images_are_filled_up_and_large_ones_cut():
    middle = samples._middle(np.arange(25).reshape(5, 5, 1), 3, 0)
    np.testing.assert_array_equal(middle[..., 0], [[6, 7, 8], [11, 12, 13], [16, 17, 18]])
    assert samples._middle(np.ones((2, 2, 1)), 4, -1)[3, 3, 0] == -1
