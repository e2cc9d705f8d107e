"""An exported encoder as a model of torchgeo-bench. An export holds a copy, beside preparation.py and weights.py."""

import pathlib
import runpy

import timm
from torchgeo_bench.models.interface import BenchModel

_FOLDER = pathlib.Path(__file__).parent
# Names of bands in torchgeo-bench that are not ours in small letters.
_NAMES = {"coastal_aerosol": "B01", "blue": "B02", "green": "B03", "red": "B04", "red_edge_1": "B05",
          "red_edge_2": "B06", "red_edge_3": "B07", "nir": "B08", "red_edge_4": "B8A", "water_vapour": "B09",
          "swir_cirrus": "B10", "swir_1": "B11", "swir_2": "B12"}


class Encoder(BenchModel):
    """Vectors and maps of the encoder of this folder.

    Args:
      bands: BandSpecs of the data, from torchgeo-bench.
      normalization: of the data set; the encoder normalises by itself, so it must be 'identity'.
      unit: of the data, as of `Preparation`; '' = told from the statistics of the bands.
      missing: bands of the encoder that the data lack, by our names; they get their mean.
      band_names: our names of the bands of the data in order, in place of those of torchgeo-bench.

    Raises:
      ValueError: another normalization; bands, unit or names that cannot be right.
    """

    handles_own_normalization = True

    def __init__(self, bands, *, normalization="identity", unit="", missing=(), band_names=(), **_):
        if str(normalization) != "identity":
            raise ValueError(f"normalization is {normalization}, and this encoder normalises by itself; give "
                             "dataset.normalization=identity")
        super().__init__(bands=bands, normalization="identity")
        names = list(band_names) or [_name(band) for band in bands]
        if len(names) != len(bands):
            raise ValueError(f"band_names has {len(names)} names, the data have {len(bands)} bands")
        preparation = runpy.run_path(str(_FOLDER / "preparation.py"))["Preparation"]
        self.prepare = preparation(_FOLDER, names, unit or "physical", missing)
        if not band_names:
            _check_names({name: band.mean for name, band in zip(names, bands, strict=True)},
                         {names[at] for at in self.prepare.chosen})
        self.prepare.unit = unit or _unit([bands[at] for at in self.prepare.chosen])
        self.backbone = timm.create_model(f"local-dir:{_FOLDER}", pretrained=True)

    def normalize_inputs(self, images):
        """[batch, bands, height, width] of the data -> input of the encoder."""
        return self.prepare(images)

    def _forward_patch_features(self, images, *_):
        return self.backbone(images)


def _name(band):
    """Returns our name of a band; that of another sensor keeps the sensor, so it fits no band of ours."""
    known = band.sensor in ("s1", "s2", "sar")
    return _NAMES.get(band.name, band.name.upper()) if known else f"{band.sensor}:{band.name}"


def _check_names(mean, used):
    """Raises ValueError for names that the means of the bands contradict: some lists of torchgeo-bench are shifted."""
    for low, high, why, others in (
            ("B10", "B09", "B10 sees cirrus alone, so it is the darkest band", {"B8A", "B09", "B10", "B11", "B12"}),
            ("VH", "VV", "VH is darker than VV over land and water", {"VV", "VH"})):
        if used & others and low in mean and high in mean and mean[low] > mean[high]:
            raise ValueError(f"the mean of {low} is {mean[low]:g}, that of {high} {mean[high]:g}, but {why}: the names "
                             "of this data set are exchanged. Look at its images, and give band_names=[...] in order")


def _unit(bands):
    """Returns the unit of the data; ValueError if statistics do not tell it."""
    if all(band.sensor == "s2" for band in bands):
        highest = max(band.max for band in bands)
        if not 10 < highest <= 1000:
            return "stored" if highest > 1000 else "physical"
    elif all(band.mean < -3 for band in bands):
        return "physical"
    elif all(band.min >= 0 and band.mean < 10 for band in bands):
        return "power"
    raise ValueError(f"the unit of {', '.join(f'{band.name} ({band.min:g} to {band.max:g})' for band in bands)} is not "
                     "known; give unit=physical (dB, reflectance), stored (reflectance x 10000) or power")
