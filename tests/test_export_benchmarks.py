"""Exports for benchmarks: torchgeo-bench and PANGAEA-bench by stand-ins of their interfaces, TerraTorch itself.

torchgeo-bench 0.4.0 needs Python 3.12, and PANGAEA-bench is not on PyPI. The stand-ins are written after their
documentation: torchgeo_bench/models/interface.py and datasets/base.py; pangaea/encoders/base.py.
"""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import yaml

from dual_encoder.export.check import check, relative_difference
from dual_encoder.export.source import Source
from dual_encoder.export.write import export
from dual_encoder.imagery.sensors import SENSORS
from tests.exports import WIDE, assert_the_card_gives_our_outputs, made
from tests.runtimes import needs, runtime

pytestmark = pytest.mark.runtimes

VIT = {"family": "vit", "depth": 4, "width": 128, "patch": 16, "image_size": 32}
BOTH = pytest.mark.parametrize("encoder", [WIDE, VIT], ids=["resnet18", "vit"])

STAND_INS = {
    "torchgeo_bench/__init__.py": "", "torchgeo_bench/models/__init__.py": "",
    "torchgeo_bench/datasets/__init__.py": "",
    "torchgeo_bench/datasets/base.py": """
import dataclasses

@dataclasses.dataclass(frozen=True)
class BandSpec:
    sensor: str
    name: str
    source_name: str
    mean: float
    std: float
    min: float
    max: float
    wavelength_um: float | None = None
""",
    "torchgeo_bench/models/interface.py": """
import torch

class BenchModel(torch.nn.Module):
    def __init__(self, bands, normalization="bandspec_zscore", **_):
        super().__init__()
        self.bands, self.num_channels, self.normalization = list(bands), len(bands), normalization

    def normalize_inputs(self, images):
        raise NotImplementedError  # a z-score with the statistics of the data

    def forward(self, images):
        return self._forward_patch_features(self.normalize_inputs(images))
""",
    "pangaea/__init__.py": "", "pangaea/encoders/__init__.py": "",
    "pangaea/encoders/base.py": """
import torch

class Encoder(torch.nn.Module):
    def __init__(self, model_name, input_bands, input_size, embed_dim, output_layers, output_dim, multi_temporal,
                 multi_temporal_output, pyramid_output, encoder_weights, download_url):
        super().__init__()
        vars(self).update({key: value for key, value in locals().items() if key not in ("self", "__class__")})
        self.output_dim = [output_dim for _ in output_layers] if isinstance(output_dim, int) else list(output_dim)
        assert download_url is None
""",
}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stand_ins")
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def exported(write_dataset, tmp_path_factory):
    """Returns a function: sensor, format, encoder -> folder."""
    data = {"smoke": write_dataset()}

    @functools.cache
    def model(family):
        return made(data, encoder=WIDE if family == "resnet" else VIT)

    @functools.cache
    def write(sensor, form, family):
        folder = tmp_path_factory.mktemp("exported") / "it"
        export(Source(model(family), sensor), folder, form)
        return folder
    return lambda sensor, form, encoder=WIDE: write(sensor, form, encoder["family"])


@pytest.fixture(scope="module")
def load(stand_ins):
    """Returns a function: file of an export -> its names, loaded with the stand-ins."""
    runtime("torch"), runtime("timm")
    import runpy

    sys.path.insert(0, str(stand_ins))
    yield lambda path: types.SimpleNamespace(**runpy.run_path(str(path)))
    sys.path.remove(str(stand_ins))
    for name in [name for name in sys.modules if name.split(".")[0] in ("torchgeo_bench", "pangaea")]:
        del sys.modules[name]


def command(*arguments, **environment):
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | environment)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "output"), [("torchgeo_bench", "s2_vector"), ("pangaea", "s2_map")])
def test_the_card_gives_our_outputs(exported, stand_ins, monkeypatch, form, output):
    needs("timm")
    monkeypatch.setenv("PYTHONPATH", f"{stand_ins}{os.pathsep}{pathlib.Path.cwd()}")
    assert_the_card_gives_our_outputs(exported("s2", form), [output])


@pytest.mark.parametrize(("form", "output"), [("torchgeo_bench", "s2_vector"), ("pangaea", "s2_map")])
def test_the_check_compares_the_outputs(exported, load, form, output):
    result = check(exported("s2", form))
    assert result.passed and list(result.differences) == [output], result


def specs(sensor, names, mean, low, high):
    from torchgeo_bench.datasets.base import BandSpec

    return [BandSpec(sensor, name, name.upper(), mean=m, std=1, min=low, max=high)
            for name, m in zip(names, mean, strict=True)]


EUROSAT = ("coastal_aerosol blue green red red_edge_1 red_edge_2 red_edge_3 nir water_vapour swir_cirrus swir_1 swir_2 "
           "red_edge_4").split()
MEANS = [1354, 1118, 1043, 948, 1199, 2000, 2369, 2297, 732, 12, 1819, 1119, 2594]


@pytest.fixture(scope="module")
def optical(exported, load):
    return load(exported("s2", "torchgeo_bench") / "torchgeo_bench_model.py").Encoder


def test_torchgeo_bench_data_of_any_order_and_unit_become_our_input(optical):
    """Band by band against (reflectance - mean) / std, for data in the order and the unit of two of its data sets."""
    import torch

    spec, rng = SENSORS["s2_l2a"], np.random.default_rng(0)
    reflectance = rng.uniform(0.01, 1, (2, 13, 32, 32)).astype(np.float32)
    reflectance[0, :, 3, 4] = 0  # no data
    order = "B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B8A".split()
    own = reflectance[:, [order.index(band) for band in spec.bands]]
    mean, std = (np.array(values)[:, None, None] * spec.scale for values in (spec.mean, spec.std))
    expected = np.where((own == 0).all(axis=1, keepdims=True), 0, (own - mean) / std)
    stored = optical(specs("s2", EUROSAT, MEANS, 0, 28000), normalization="identity")
    physical = optical(specs("s2", EUROSAT, np.array(MEANS) / 1e4, 0, 2.8))
    for model, factor in ((stored, 1e4), (physical, 1)):
        seen = model.normalize_inputs(torch.from_numpy(reflectance * np.float32(factor)))
        np.testing.assert_allclose(seen, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    with torch.no_grad():
        assert model.eval()(torch.from_numpy(reflectance)).shape == (2, 512)


def test_missing_bands_get_their_mean_when_asked(optical):
    import torch

    chosen = [at for at, name in enumerate(EUROSAT) if name not in ("coastal_aerosol", "swir_cirrus")]
    bands = [specs("s2", EUROSAT, MEANS, 0, 28000)[at] for at in chosen]
    with pytest.raises(ValueError, match=r"the data lack B01, and missing=\[\]: give missing=\[B01\]"):
        optical(bands)
    seen = optical(bands, missing=["B01"]).normalize_inputs(torch.full((1, len(bands), 8, 8), 500.0))
    assert not seen[:, 0].any() and seen[:, 1:].abs().min() > 0.1


@pytest.mark.parametrize(("change", "message"), [
    (lambda bands: {"bands": bands, "normalization": "bandspec_zscore"}, "give dataset.normalization=identity"),
    # m-eurosat: the values of B8A, B09, ... stand under the names of B12, B8A, ...
    (lambda bands: {"bands": [dataclasses.replace(band, mean=mean) for band, mean in zip(
        bands, [*MEANS[:8], 12, 1849, 1131, 2665, 751], strict=True)]}, "the mean of B10 is 1849, that of B09 12"),
    (lambda bands: {"bands": [dataclasses.replace(band, max=255) for band in bands]}, "the unit of .* is not known"),
    (lambda bands: {"bands": [dataclasses.replace(band, sensor="landsat") for band in bands]}, "bands landsat:coastal"),
    (lambda bands: {"bands": bands, "band_names": ["B01"]}, "band_names has 1 names, the data have 13 bands"),
    (lambda bands: {"bands": bands, "unit": "dB"}, "unit is 'dB', expected one of physical, stored, power"),
])
def test_data_that_cannot_be_right_are_refused(optical, change, message):
    with pytest.raises(ValueError, match=message):
        optical(**change(specs("s2", EUROSAT, MEANS, 0, 28000)))


def test_radar_in_decibel_and_in_power_is_one_input(exported, load):
    import torch

    spec, rng = SENSORS["s1_grd"], np.random.default_rng(1)
    encoder = load(exported("s1", "torchgeo_bench") / "torchgeo_bench_model.py").Encoder
    decibel = rng.uniform(-30, 0, (1, 2, 32, 32)).astype(np.float32)
    mean, std = (np.array(values)[:, None, None] * spec.scale for values in (spec.mean, spec.std))
    in_decibel = encoder(specs("s1", ["vh", "vv"], [-19, -12], -66, 24))
    in_power = encoder(specs("sar", ["vv", "vh"], [0.13, 0.03], 0, 2551))
    for model, image in ((in_decibel, decibel[:, ::-1].copy()), (in_power, 10 ** (decibel / 10))):
        image[0, :, 5, 5] = 0  # no data, and no power
        expected = (decibel - mean) / std
        expected[0, :, 5, 5] = 0
        np.testing.assert_allclose(model.normalize_inputs(torch.from_numpy(image)), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="the mean of VH is -12, that of VV -19.*VH is darker than VV"):  # benv2
        encoder(specs("s1", ["vv", "vh"], [-19, -12], -66, 24))


@BOTH
def test_the_entry_of_torchgeo_bench_names_modules_of_the_model(exported, load, encoder):
    import torch

    folder = exported("s2", "torchgeo_bench", encoder)
    entry = yaml.safe_load((folder / "conf/model/dual_encoder.yaml").read_text())
    assert entry.pop("_target_") == "torchgeo_bench_model.Encoder" and entry["name"] == "dual_encoder s2_l2a"
    model = load(folder / "torchgeo_bench_model.py").Encoder(specs("s2", EUROSAT, MEANS, 0, 28000), **entry).eval()
    layers, seen = entry["eval"]["segmentation"]["layers"], {}
    for name, module in model.named_modules():
        if name.removeprefix("backbone.") in layers:
            module.register_forward_hook(lambda module, _, output, name=name: seen.update({name: output.shape}))
    with torch.no_grad():
        model(torch.full((1, 13, 64, 64), 900.0))
    assert [seen[f"backbone.{name}"][1:] for name in layers] == (
        [(512, 2, 2), (256, 4, 4), (128, 8, 8), (64, 16, 16)] if encoder is WIDE else [(17, 128)] * 4)


@BOTH
def test_pangaea_gets_four_maps_of_the_channels_that_its_configuration_states(exported, load, encoder, capsys):
    import torch

    folder = exported("s2", "pangaea", encoder)
    entry = yaml.safe_load((folder / "conf/encoder/dual_encoder.yaml").read_text())
    assert entry.pop("_target_") == "pangaea_encoder.Encoder"
    model = load(folder / "pangaea_encoder.py").Encoder(**entry).eval()
    model.load_encoder_weights(types.SimpleNamespace(info=print))
    assert "model.safetensors" in capsys.readouterr().out
    assert entry["input_bands"]["optical"][:2] == ["B1", "B2"] and entry["unit"] == "stored"
    image = torch.from_numpy(np.random.default_rng(0).uniform(1, 9000, (2, 12, 1, 64, 64)).astype(np.float32))
    with torch.no_grad():
        maps, again = model({"optical": image}), model({"optical": image[:, :, 0]})
        physical = load(folder / "pangaea_encoder.py").Encoder(**entry | {"unit": "physical"}).eval()(
            {"optical": image * 1e-4})
    assert [tuple(one.shape[1:]) for one in maps] == (
        [(64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2)] if encoder is WIDE else [(128, 4, 4)] * 4)
    assert [one.shape[1] for one in maps] == model.output_dim and model.pyramid_output == (encoder is WIDE)
    for one, other, third in zip(maps, again, physical, strict=True):
        assert torch.equal(one, other) and relative_difference(third.numpy(), one.numpy()) <= 1e-5


def test_pangaea_refuses_fewer_bands_unless_they_are_named_and_frozen_statistics_stay(exported, load):
    import torch

    folder = exported("s2", "pangaea")
    entry = yaml.safe_load((folder / "conf/encoder/dual_encoder.yaml").read_text())
    del entry["_target_"]
    make = load(folder / "pangaea_encoder.py").Encoder
    fewer = {"optical": torch.full((1, 11, 1, 32, 32), 900.0)}
    with pytest.raises(ValueError, match="the images have 11 bands, expected 12"):
        make(**entry)(fewer)
    assert len(make(**entry | {"missing": ["B1"]}).eval()(fewer)) == 4
    frozen = make(**entry | {"missing": ["B1"]}).requires_grad_(False).train()  # as decoders of PANGAEA do
    frozen(fewer)
    assert frozen.training and torch.equal(frozen.backbone.bn1.running_mean, make(**entry).backbone.bn1.running_mean)
    preprocessing = yaml.safe_load((folder / "conf/preprocessing/dual_encoder.yaml").read_text())
    steps = {name: [step["_target_"].split(".")[-1] for step in split["preprocessor_cfg"]]
             for name, split in preprocessing.items()}
    assert steps == {"train": ["RandomCropToEncoder", "BandFilter"], "val": ["BandFilter"], "test": ["BandFilter"]}


@pytest.mark.slow
def test_terratorch_fits_the_configurations_of_the_exports(exported, tmp_path):
    needs("terratorch")
    import rasterio

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, bands, dtype in (("images", 2, "float32"), ("labels", 1, "uint8")):
            (tmp_path / split / kind).mkdir(parents=True)
            for number in range(4):
                pixels = rng.uniform(-25, -5, (2, 64, 64)) if bands == 2 else rng.integers(0, 2, (1, 64, 64))
                pixels[:, :3, :3] = np.nan if bands == 2 else 255
                with rasterio.open(tmp_path / split / kind / f"{number}.tif", "w", driver="GTiff", height=64, width=64,
                                   count=bands, dtype=dtype, nodata=np.nan if bands == 2 else None,
                                   transform=rasterio.Affine(10, 0, 0, 0, -10, 0)) as file:
                    file.write(pixels.astype(dtype))
    usual = [f"--data.init_args.{split}_{what}data_root={tmp_path / split / kind}" for split in ("train", "val")
             for what, kind in (("", "images"), ("label_", "labels"))]
    usual += ["--data.init_args.num_workers=0", "--data.init_args.batch_size=2", "--trainer.max_steps=2",
              "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}",
              *(f"--trainer.{key}=false" for key in (
                  "logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"))]
    lines = ["from terratorch.cli_tools import build_lightning_cli"]  # what the command `terratorch` calls
    for encoder in (WIDE, VIT):
        folder = exported("s1", "terratorch", encoder)
        lines.append(f"""build_lightning_cli({['fit', f'--config={folder / "fit.yaml"}', *usual,
                     f'--custom_modules_path={folder / "custom_modules"}',
                     f'--model.init_args.model_args.backbone_folder={folder}']})""")
    done = command("-c", "\n".join(lines))
    assert done.returncode == 0 and (done.stdout + done.stderr).count("max_steps=2` reached") == 2, (
        done.stdout[-2000:] + done.stderr[-3000:])
