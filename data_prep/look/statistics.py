"""Per-band mean and standard deviation of a split, in one pass, with their provenance."""

import dataclasses
import datetime
from typing import Any

import numpy as np
from etils import epath

from dual_encoder.console import Progress
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of each band; float64 [bands]."""

    count: int
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Moments":
        """Returns the moments of `pixels`, [pixels, bands] of any number type."""
        if len(pixels) == 0:
            return cls(0, np.zeros(pixels.shape[1]), np.zeros(pixels.shape[1]))
        values = pixels.astype(np.float64)
        mean = np.ones(len(values)) @ values / len(values)  # five times as fast as .mean(axis=0) on a few bands
        values -= mean
        return cls(len(values), mean, np.einsum("ij,ij->j", values, values))

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both together (Chan, Golub, LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        difference = other.mean - self.mean
        return Moments(count, self.mean + difference * (other.count / count),
                       self.squares + other.squares + difference**2 * (self.count * other.count / count))

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation, float64 [bands]."""
        return np.sqrt(self.squares / max(self.count, 1))


def compute(folder: epath.PathLike, split: str) -> dict[str, Any]:
    """Computes the statistics of every image of a split, with progress; pixels without data are left out.

    Args:
      folder: a data set folder.
      split: its split; statistics for training come from 'train'.

    Returns:
      {'sensors': feature -> SensorSpec JSON with the new mean, std (stored integers) and provenance,
       'provenance': data set, fingerprint, split, records, pixels, units, date}.

    Raises:
      UserError: no such data set or split; a band that has one value everywhere.
    """
    records = ShardedRecords(folder, split)
    info = records.info
    moments = {name: Moments.of(np.zeros((0, len(spec.bands)))) for name, spec in info.sensors.items()}
    done = [0, 0]
    with Progress("records", len(records), lambda: (done[0], done[1], "")):
        for number in range(len(records)):
            record = records[number]
            for name, spec in info.sensors.items():
                image = record[name]
                moments[name] = moments[name].merge(Moments.of(image[spec.holds_data(image)]))
                done[1] += image.nbytes
            done[0] += 1
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    data_set = f"{info.name}/{info.config}/{info.version}"
    return {
        "sensors": {name: _with_moments(spec, moments[name], f"`data_prep stats` on {data_set} {split}, {len(records)} "
                                        f"records, {moments[name].count} pixels, fingerprint {info.fingerprint[:12]}, "
                                        f"{date}") for name, spec in info.sensors.items()},
        "provenance": {"data_set": data_set, "fingerprint": info.fingerprint, "split": split, "records": len(records),
                       "pixels": {name: value.count for name, value in moments.items()},
                       "units": {name: f"stored integers; x {spec.scale} = {spec.unit}"
                                 for name, spec in info.sensors.items()},
                       "date": date},
    }


def _with_moments(spec: SensorSpec, moments: Moments, provenance: str) -> dict[str, Any]:
    constant = [band for band, std in zip(spec.bands, moments.std, strict=True) if not std > 0]
    if constant:
        raise UserError(f"band {constant[0]} of '{spec.name}' has one value in all {moments.count} pixels with data; "
                        "it cannot be normalised, check the raw data with `python -m data_prep inspect`")
    return dataclasses.replace(spec, mean=tuple(moments.mean.tolist()), std=tuple(moments.std.tolist()),
                               provenance=provenance).to_json()
