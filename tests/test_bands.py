"""Some of a sensor's bands: the sensor that they make, and an encoder of all bands on images that lack some."""

import json

import jax
import numpy as np
import pytest
from etils import epath

from configs import probe as probe_config
from dual_encoder.config import parse
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery.sensors import SENSORS, SensorSpec, sensor
from dual_encoder.models.fusion import encoder_images
from dual_encoder.runtime import mesh
from dual_encoder.tasks.bands import fitted, selected
from dual_encoder.tasks.build import AnyConfig, build, build_probe
from dual_encoder.tasks.probe import encoded
from dual_encoder.training.run import run
from dual_encoder.workdir.checkpoint import load_model
from tests.runs import configure, fit

TEN = tuple(band for band in SENSORS["s2_l2a"].bands if band not in ("B01", "B09"))


@pytest.mark.quick
def test_some_bands_make_a_sensor_of_their_own():
    whole = SENSORS["s2_l2a"]
    rgb = sensor("s2_l2a:B04+B03+B02")
    assert rgb == whole.subset(["B02", "B04", "B03"]) == sensor(rgb.name)
    assert rgb.name == "s2_l2a:B02+B03+B04" and rgb.bands == ("B02", "B03", "B04") and rgb.feature == "s2"
    assert rgb.mean == whole.mean[1:4] and rgb.std == whole.std[1:4] and rgb.rgb == ("B04", "B03", "B02")
    assert sensor("s2_l2a:B08+B11").rgb == () and sensor("s1_grd:VV").feature == "s1"
    assert whole.subset(whole.bands) is whole and rgb.subset(["B02"]).name == "s2_l2a:B02"
    for spec in (rgb, sensor("s2_l2a:B08+B11"), sensor("s1_grd:VV")):
        values = json.loads(json.dumps(spec.to_json()))
        assert SensorSpec.from_json(values) == spec and not {"notes", "tags", "limits"} & set(values)
    for name, message in (("s2_l2a:B04+B10", "bands 'B04 B10' are no part of sensor 's2_l2a', which has B01"),
                          ("s2_l2a:", "bands '' are no part"), ("s2_l2a:B04+B04", "each once"),
                          ("s2_l3a:B04", "did you mean 's2_l2a'")):
        with pytest.raises(UserError, match=message):
            sensor(name)


@pytest.mark.quick
def test_files_with_some_bands_are_told_from_misspelt_ones():
    whole = SENSORS["s2_l2a"]
    assert whole.stored_as(["SCL", *reversed(whole.bands)]) is whole
    assert whole.stored_as(["B04", "dataMask", "B02"]).name == "s2_l2a:B02+B04"
    for names, message in ((["B4", "B03"], "lack B01 .* and B4 is none of its bands"), (["red"], "lack B01"),
                           (["B04", "B04"], "B04 is there twice")):
        with pytest.raises(UserError, match=message):
            whole.stored_as(names)


@pytest.fixture(scope="module")
def runs(write_dataset, tmp_path_factory):
    """Runs on all bands, late and early fusion: folder of each."""
    data, folders = write_dataset(size=40), {}
    for fusion in ("late", "early"):
        folders[fusion] = tmp_path_factory.mktemp(fusion) / "run"
        fit(configure(data, fusion=fusion, loss__name="info_nce" if fusion == "late" else "nt_xent"), folders[fusion])
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["late", "early"])
def test_selected_kernels_answer_as_all_do_with_the_other_bands_at_their_mean(runs, fusion):
    model, rng = load_model(runs[fusion]), np.random.default_rng(0)
    stored = {"s1": sensor("s1_grd:VH"), "s2": sensor("s2_l2a:B02+B03+B08+B12")}
    now = {name: fitted(model.sensors[name], spec, "select", "data") for name, spec in stored.items()}
    assert now["s2"].name == "s2_l2a:B02+B03+B08+B12" and "B01 B02 B03" in now["s2"].provenance
    config = parse(AnyConfig, model.config)
    few = {name: rng.normal(size=(2, 40, 40, len(spec.bands))).astype(np.float32) for name, spec in stored.items()}
    full = {name: np.zeros((2, 40, 40, len(spec.bands)), np.float32) for name, spec in model.sensors.items()}
    for name, spec in stored.items():
        full[name][..., [model.sensors[name].bands.index(band) for band in spec.bands]] = few[name]

    def vectors(variables, images):
        return jax.jit(lambda variables, images: [
            encoded(config.encoder, variables["params"], variables["batch_stats"], name, image).pooled
            for name, image in encoder_images(images, ("s1", "s2"), fusion).items()])(variables, images)

    variables = selected(model, now, fusion, config.encoder.first_layer)
    for ours, theirs in zip(vectors(variables, few), vectors(model.variables, full), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4e-6 * np.abs(theirs).max())


@pytest.mark.slow
def test_fine_tuning_and_probes_take_fewer_bands_on_request_only(runs, write_dataset, tmp_path):
    tiles = write_dataset(size=40, labels=True, sensors=("s1_grd:VV", f"s2_l2a:{'+'.join(TEN)}"))
    assert load_info(tiles).sensors["s2"].bands == TEN
    options = {"init_from": str(runs["late"]), "inputs": "s1+s2"}
    with pytest.raises(UserError, match="stores VV, the checkpoint takes VV VH; set --config.adapt_bands=select"):
        build(configure(tiles, "water_weak", **options), mesh.make())
    config = configure(tiles, "water_weak", adapt_bands="select", **options)
    built = build(config, mesh.make())
    said = [note for note in built.notes if "kernels of the other bands are left out" in note]
    assert [note[:3] for note in said] == ["s1:", "s2:"]
    run(config, mesh.make(), epath.Path(tmp_path / "tuned"))
    tuned = load_model(tmp_path / "tuned")
    assert tuned.sensors["s2"].bands == TEN and "adapt_bands=select" in tuned.sensors["s2"].provenance
    assert tuned.variables["params"]["s2_encoder"]["patch_embed"]["kernel"].shape[2] == 10
    export(Source(tuned, "s2"), tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert "B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12 |" in card and "adapt_bands=select" in card

    values = probe_config.get_config("segmentation").to_dict()
    values |= {"init_from": str(runs["late"]), "inputs": "s2"}
    values["data"] |= {"dir": str(tiles)}
    with pytest.raises(UserError, match="adapt_bands=select"):
        build_probe(parse(AnyConfig, values))
    frozen = build_probe(parse(AnyConfig, values | {"adapt_bands": "select"}))
    assert frozen.encoders[0][0].variables["params"]["s2_encoder"]["patch_embed"]["kernel"].shape[2] == 10
    # Pre-training has no such key: there the message is that of two sensors.
    with pytest.raises(UserError, match="sensor bands differ"):
        build(configure(tiles, init_from=str(runs["late"])), mesh.make())


def test_a_sensor_with_another_unit_is_not_adapted():
    with pytest.raises(UserError, match="sensor unit differ"):
        fitted(SENSORS["s2_l2a"], SENSORS["s2_l1c"].subset(["B04"]), "select", "data")
