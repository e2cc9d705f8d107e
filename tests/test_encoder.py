"""`dual_encoder.load`: the same vectors as in training, in any unit and from files; mistakes get one line."""

import doctest
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from affine import Affine

import dual_encoder
from dual_encoder.data.records import BatchReader, Records
from dual_encoder.errors import UserError
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery import gdal
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.inference import encoder as encoder_file
from dual_encoder.inference.images import stored_images
from dual_encoder.models.encoder import ResNetConfig, ViTConfig
from dual_encoder.weights import published
from dual_encoder.weights.layouts import LAYOUTS
from dual_encoder.weights.timm_keys import to_timm
from dual_encoder.workdir.checkpoint import load_model
from tests import runs, saved

pytestmark = pytest.mark.quick

S1, S2 = SENSORS["s1_grd"], SENSORS["s2_l2a"]


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=9)


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """(workdir, task, params, batch_stats) of a dual encoder."""
    workdir = tmp_path_factory.mktemp("at") / "runs" / "pretrain"
    return workdir, *saved.save_run(runs.configure(folder), workdir)


@pytest.fixture(scope="module")
def encoder(run):
    return dual_encoder.load(run[0])


@pytest.fixture(scope="module")
def batch(folder):
    return BatchReader(Records(folder, "train", ("s1", "s2")))(range(9))


def test_vectors_are_those_of_the_task(run, encoder, batch):
    _, task, params, batch_stats = run
    given = batch | {"label": np.zeros(9)}
    for kind, expected in (("projected", jax.jit(task.predict)(params, batch_stats, given)),
                           ("pooled", jax.jit(task.vectors)(params, batch_stats, given))):
        found = encoder.encode(s1=batch["s1"], s2=batch["s2"], units="stored", vectors=kind, batch_size=4)
        if kind == "pooled":
            found = {"vector": np.concatenate([found["s1"], found["s2"]], axis=1)}
        for name, array in found.items():
            # Float32, the same sums in batches of another size.
            np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=2e-5)
            assert array.dtype == np.float32 and len(array) == 9


def test_early_fusion_needs_all_sensors(folder, tmp_path, batch):
    config = runs.configure(folder, fusion="early", augment__shared_crop=True, loss={"name": "nt_xent"})
    task, params, batch_stats = saved.save_run(config, tmp_path)
    encoder = dual_encoder.load(tmp_path)
    with pytest.raises(UserError, match="images of s1 given; expected s1 and s2"):
        encoder.encode(s1=batch["s1"], units="stored")
    found = encoder.encode(s2=batch["s2"], s1=batch["s1"], units="stored")
    expected = jax.jit(task.predict)(params, batch_stats, batch)["s1_s2"]
    np.testing.assert_allclose(found["s1_s2"], expected, rtol=2e-5, atol=2e-5)


def test_an_export_gives_the_vectors_of_its_run(run, encoder, batch, tmp_path):
    export(Source(load_model(run[0]), "s2"), tmp_path)
    exported = dual_encoder.load(tmp_path)
    assert exported.vectors == ("pooled",) and exported.bands == {"s2": S2.bands} and exported.origin["step"] == 1
    both = [some.encode(s2=batch["s2"], units="stored", vectors="pooled")["s2"] for some in (encoder, exported)]
    np.testing.assert_array_equal(*both)
    with pytest.raises(UserError, match="this export has no projection heads; give vectors='pooled'"):
        exported.encode(s2=batch["s2"], units="stored")
    (tmp_path / "model.safetensors").write_bytes(b"\0" + (tmp_path / "model.safetensors").read_bytes()[1:])
    with pytest.raises(UserError, match="is damaged: model.safetensors does not match its digest"):
        dual_encoder.load(tmp_path)


def test_a_digest_names_the_weights(run, encoder, folder, tmp_path):
    saved.save_run(runs.configure(folder, projection__dim=4), tmp_path)
    assert dual_encoder.load(run[0]).digest == encoder.digest != dual_encoder.load(tmp_path).digest


@pytest.mark.parametrize("expected", [
    ResNetConfig(depth=50, width=64, norm="group", remat=False, dtype="float32"),
    ViTConfig(depth=2, width=128, patch=8, image_size=48, pool="mean", remat=False, dtype="float32"),
    ViTConfig(depth=12, width=384, remat=False, dtype="float32"),
    ViTConfig(depth=2, width=64, pool="patches", remat=False, dtype="float32"),
])
def test_the_architecture_of_an_export_is_read_back(expected):
    image = jnp.zeros((1, 64, 64, 12))
    template = jax.eval_shape(lambda key: expected.make().init(key, image, False), jax.random.key(0))
    weights = to_timm(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template))
    assert published.encoder(weights, LAYOUTS["timm"]) == expected


def test_physical_units_round_as_importers_do():
    decibels = np.array([[[-12.346, -20.0], [np.nan, -20.0], [-400.0, -400.0], [-327.68, -327.68]]])
    assert stored_images(np.repeat(decibels, 4, axis=0), S1, "physical")[0, 0].tolist() == [
        [-1235, -2000], [-32768, -32768], [-32767, -32767], [-32767, -32767]]
    reflectance = np.zeros((1, 2, 12))
    reflectance[0, 0] = 0.12344
    integers = stored_images(reflectance, S2, "physical")
    # Black is a dark surface, not a pixel without data.
    assert integers.dtype == np.uint16 and integers[0, 0].tolist() == [[1234] * 12, [1] * 12]


def test_a_pixel_without_data_counts_as_the_mean(encoder, batch):
    image = batch["s1"][0] * 0.01
    image[:9, :9] = np.nan
    filled = image.copy()
    filled[:9, :9] = np.array(S1.mean) * 0.01
    hollow, full = (encoder.encode(s1=some, units="physical")["s1"] for some in (image, filled))
    # The mean is stored in hundredths: half of one is 0.001 of a standard deviation.
    np.testing.assert_allclose(hollow, full, atol=2e-3 * np.abs(full).max())
    ignored = image.copy()
    ignored[:9, :9] = -12
    assert np.abs(encoder.encode(s1=ignored, units="physical")["s1"] - hollow).max() > 1e-3 * np.abs(full).max()


def test_a_file_is_read_by_the_names_of_its_bands(encoder, batch, tmp_path):
    rasterio = gdal.load()
    image = batch["s1"][0].copy()
    image[:5, :5] = S1.no_data
    path = tmp_path / "image.tif"
    with rasterio.open(path, "w", driver="GTiff", height=40, width=40, count=2, dtype="float32", nodata=-9999,
                       crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        values = np.where(S1.holds_data(image)[..., None], image * np.float32(0.01), -9999)
        file.write(np.moveaxis(values, -1, 0)[::-1].astype(np.float32))
        file.descriptions = ("VH", "VV")
    np.testing.assert_array_equal(encoder.encode(s1=path, units="physical")["s1"],
                                  encoder.encode(s1=image, units="stored")["s1"])


@pytest.mark.parametrize("images, units, message", [
    ({"s1": np.zeros((8, 8, 3))}, "physical", r"'s1' has shape \[8, 8, 3\]; expected .*, 2\] for bands VV VH"),
    ({"s1": np.zeros((8, 8, 2))}, "stored", "'s1' is float64; expected integers .* say units='physical'"),
    ({"s1": np.zeros((8, 8, 2), np.int16)}, "physical", "'s1' is int16; expected floats in dB"),
    ({"s1": np.full((8, 8, 2), 40000)}, "stored", "'s1' holds 40000 to 40000; expected int16"),
    ({"s1": np.full((40, 40, 2), (0.08, 0.02))}, "physical", r"not in the unit of s1_grd, dB .*: VV is \+0.1 dB"),
    ({"s2": np.full((40, 40, 12), 1234.0)}, "physical", "not in the unit of s2_l2a, surface reflectance"),
    ({"s3": np.zeros((8, 8, 2))}, "physical", "the encoder has no sensor 's3'; "),
    ({"s1": [[1]]}, "physical", "s1 is a list; expected a NumPy array or the path of a raster"),
    ({"s1": np.full((2, 8, 8, 2), np.nan)}, "physical", "'s1', image 0, has no pixel with data; leave it out"),
    ({"s1": "none.tif"}, "physical", "'none.tif' is missing"),
    ({"s1": np.zeros((8, 8, 2))}, "dB", "units is 'dB'; expected 'physical'"),
    ({}, "physical", "images of no sensor given; expected s1 or s2"),
])
def test_a_mistake_gets_one_line(encoder, images, units, message):
    with pytest.raises(UserError, match=message):
        encoder.encode(units=units, **images)


def test_a_folder_without_a_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoints; give the --workdir"):
        dual_encoder.load(tmp_path)


def test_the_examples_in_the_docstrings_are_true(run, monkeypatch):
    monkeypatch.chdir(run[0].parent.parent)
    with jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(encoder_file)
    assert result.failed == 0 and result.attempted >= 6


def test_the_package_is_light_until_it_is_used():
    code = "import sys, dual_encoder; assert not {'jax', 'numpy', 'flax'} & set(sys.modules); dual_encoder.load"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
