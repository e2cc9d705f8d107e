"""From the values of a data set to the input of an exported encoder. Exports hold a copy, beside weights.py."""

import pathlib
import runpy

import torch

UNITS = ("physical", "stored", "power")


class Preparation(torch.nn.Module):
    """Picks the bands of an encoder by name, changes their unit, and normalises them as in training.

    Args:
      folder: of the export.
      names: bands of the data in order, by the names of the export ('B02', 'VV'). Others may be among them.
      unit: of the data. 'physical': dB or reflectance; 'stored': the integers of the training, as reflectance x 10000;
        'power': linear backscatter.
      missing: bands of the encoder that the data lack. They get their mean, everywhere.

    Raises:
      ValueError: another unit; or the bands that the data lack are others than `missing`.
    """

    def __init__(self, folder, names, unit, missing=()):
        super().__init__()
        weights = runpy.run_path(str(pathlib.Path(folder) / "weights.py"))["weights"](folder)
        self.normalise, own = weights.transforms, list(weights.meta["bands"])
        lacking = [band for band in own if band not in names]
        if unit not in UNITS:
            raise ValueError(f"unit is '{unit}', expected one of {', '.join(UNITS)}")
        if sorted(lacking) != sorted(missing):
            raise ValueError(f"the data have the bands {' '.join(names)}, the encoder takes {' '.join(own)}; of these "
                             f"the data lack {' '.join(lacking) or 'none'}, and missing=[{', '.join(missing)}]: give "
                             f"missing=[{', '.join(lacking)}] to feed their mean")
        self.count, self.unit = len(names), unit
        self.chosen = [list(names).index(band) for band in own if band in names]
        self.places = [place for place, band in enumerate(own) if band in names]

    def forward(self, image):
        """[batch, bands, height, width] of the data -> normalised float32 with the bands of the encoder.

        A pixel becomes 0, the mean, if all its bands are 0 (as benchmarks store no data) or the no-data value of the
        sensor, or if one is not finite.

        Raises:
          ValueError: another number of bands than `names`.
        """
        if image.shape[1] != self.count:
            raise ValueError(f"the images have {image.shape[1]} bands, expected {self.count}")
        given = image[:, self.chosen].float()
        empty = (given == 0).all(dim=1, keepdim=True)
        if self.unit == "power":
            given = 10 * torch.log10(given)  # not finite for no power
        elif self.unit == "stored":
            given = given * self.normalise.scale
        if self.normalise.no_data is not None:
            empty |= ((given - self.normalise.no_data).abs() <= self.normalise.scale / 2).all(dim=1, keepdim=True)
        mean = self.normalise.mean.expand(len(image), -1, *image.shape[2:]).clone()
        mean[:, self.places] = given
        return self.normalise(torch.where(empty, torch.nan, mean))
