"""How published encoders normalise their input, in the facts of a sensor: (stored - mean) / std, then limits."""

import dataclasses
from collections.abc import Mapping

from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.sensors import SensorSpec

# torchgeo/models/resnet.py: mean and std of Normalize, in stored integers (hundredths of dB; reflectance x 10000).
_TORCHGEO: Mapping[str, tuple[float, float]] = {
    "VV": (-1259.0, 526.0), "VH": (-2026.0, 591.0),
    "B01": (1612.9, 791.0), "B02": (1397.6, 854.3), "B03": (1322.3, 878.7), "B04": (1373.1, 1144.9),
    "B05": (1561.0, 1127.5), "B06": (2108.4, 1164.2), "B07": (2390.7, 1276.0), "B08": (2318.7, 1249.5),
    "B8A": (2581.0, 1345.9), "B09": (837.7, 577.5), "B10": (22.0, 47.5), "B11": (2195.2, 1340.0),
    "B12": (1537.4, 1142.9)}
_IMAGENET: Mapping[str, tuple[float, float]] = {"B04": (0.485, 0.229), "B03": (0.456, 0.224), "B02": (0.406, 0.225)}

# Name -> what it does, for help and errors.
NAMES: Mapping[str, str] = {
    "sensor": "mean and std of the sensor",
    "reflectance": "reflectance, stored / 10000",
    "reflectance_clipped": "reflectance, stored / 10000, cut to 0..1",
    "two_sigma": "mean - 2 std ... mean + 2 std of the sensor to 0..1, cut to that range",
    "torchgeo": "mean and std of torchgeo's transforms for SSL4EO-S12",
    "imagenet": "mean and std of ImageNet, on values scaled to 0..1",
}


def normalised(spec: SensorSpec, name: str) -> SensorSpec:
    """Returns the sensor with the normalisation called `name`.

    Args:
      spec: the sensor, with its usual statistics.
      name: of `NAMES`.

    Raises:
      UserError: no such name, or the sensor does not have its unit or bands.
    """
    if name not in NAMES:
        raise UserError(f"unknown normalisation '{name}'; {nearest(name, NAMES)}")
    if name == "sensor":
        return spec
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if name.startswith("reflectance"):
        if spec.modality != "optical" or spec.scale == 1:
            raise _unfit(spec, name, "reflectance")
        mean, std = (0.0,) * len(spec.bands), (1 / spec.scale,) * len(spec.bands)
    elif name == "two_sigma":
        mean = tuple(m - 2 * s for m, s in zip(spec.mean, spec.std, strict=True))
        std = tuple(4 * s for s in spec.std)
    else:
        table = _TORCHGEO if name == "torchgeo" else _IMAGENET
        unit = 1.0 if name == "torchgeo" else 255.0 if spec.dtype == "uint8" else 1 / spec.scale
        stored = spec.scale in (0.01, 1e-4) if name == "torchgeo" else spec.modality == "optical"
        if not stored or not set(spec.bands) <= set(table):
            raise _unfit(spec, name, " ".join(table))
        mean, std = (tuple(table[band][number] * unit for band in spec.bands) for number in (0, 1))
    limits = (0.0, 1.0) if name in ("reflectance_clipped", "two_sigma") else ()
    notes = " ".join(filter(None, (spec.notes, "After normalisation, values are cut to 0..1." if limits else "")))
    return dataclasses.replace(spec, mean=mean, std=std, limits=limits, notes=notes,
                               provenance=f"of the published encoder: {NAMES[name]}")


def _unfit(spec: SensorSpec, name: str, expected: str) -> UserError:
    return UserError(f"normalisation '{name}' is of {expected}, sensor '{spec.name}' stores {spec.unit} of "
                     f"{' '.join(spec.bands)}; choose another --normalisation: {', '.join(NAMES)}")
