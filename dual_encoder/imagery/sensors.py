"""What a stored image holds: bands in order, unit, dtype, no-data value, statistics. Sensors are data, not code.

One rule for no-data holds everywhere: a pixel is no-data when every band equals `no_data`. Importers see to it that a
pixel with one unusable band has the value in all of them, and that no valid pixel has it.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dual_encoder.errors import UserError, nearest

IGNORED = 255  # the label of a pixel that counts neither in a loss nor in a metric
_LOOKS = ("rgb", "notes", "tags", "feature", "limits")  # keys that stored sensors may lack
_TUPLES = ("bands", "mean", "std", "rgb", "tags", "limits")
_BAND = re.compile(r"B\d\w?\w?|[VH][VH]")
_OF = ":"  # between the name of a sensor and its bands, if it has not all of them


@dataclasses.dataclass(frozen=True)
class SensorSpec:
    """One kind of stored image.

    Attributes:
      name: the key in `SENSORS`.
      modality: 'sar', 'optical', or another word.
      bands: band names in the order of the last axis.
      unit: the physical unit; stored integer x `scale` = value in that unit.
      scale: see `unit`.
      dtype: the stored dtype, 'int16', 'uint16' or 'uint8'.
      no_data: the stored value of a pixel without data, or None if the product has no such value.
      mean, std: per band, in stored integers.
      provenance: origin of mean and std.
      rgb: bands that a picture shows as red, green and blue. () = the usual ones: VV, VH and their difference for radar
        of two bands or more; else the first three bands, or the first one as grey.
      notes: sentences for the card of an exported encoder about other units and traps of the product; '' = a sentence
        made from `unit` and `scale`.
      tags: words under which model hubs file an encoder of this sensor.
      feature: name of the images in a record; '' = 's1' for radar, 's2' for other modalities. A sensor that stands next
        to these two needs a name of its own, such as 's3'.
      limits: normalised values, (stored - mean) / std, are cut to this range (lowest, highest); () = they are not cut.
        Published encoders have such ranges, as reflectance in 0..1.

    Raises:
      UserError: not one mean and std per band, a std that is not positive, `rgb` that is not three of the bands, or
        limits that are no range.
    """

    name: str
    modality: str
    bands: tuple[str, ...]
    unit: str
    scale: float
    dtype: str
    no_data: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    provenance: str
    rgb: tuple[str, ...] = ()
    notes: str = ""
    tags: tuple[str, ...] = ()
    feature: str = ""
    limits: tuple[float, ...] = ()

    def __post_init__(self):
        if not self.feature:
            object.__setattr__(self, "feature", "s1" if self.modality == "sar" else "s2")
        if self.rgb and (len(self.rgb) != 3 or not set(self.rgb) <= set(self.bands)):
            raise UserError(f"sensor '{self.name}': rgb is {' '.join(self.rgb)}, expected three of "
                            f"{' '.join(self.bands)}")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise UserError(f"sensor '{self.name}': {len(self.bands)} bands, {len(self.mean)} means, {len(self.std)} "
                            "standard deviations; give one of each per band")
        if min(self.std) <= 0:
            raise UserError(f"sensor '{self.name}': std {self.std} must be positive; recompute it with `data_prep "
                            "stats`")
        if self.limits and not (len(self.limits) == 2 and self.limits[0] < self.limits[1]):
            raise UserError(f"sensor '{self.name}': limits are {self.limits}, expected the lowest and the highest "
                            "normalised value")

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists, numbers and strings.

        `rgb`, `notes`, `tags`, `feature` and `limits` are left out if `from_json` fills them in again. So what is
        stored of a sensor stays the same when these facts are added to `SENSORS` or reworded, and a run can be resumed.
        """
        values = dataclasses.asdict(self) | {k: list(getattr(self, k)) for k in _TUPLES}
        usual = _looks(self.name, self.bands, self.modality)
        return {key: value for key, value in values.items() if key not in _LOOKS or getattr(self, key) != usual[key]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "SensorSpec":
        """Reads what `to_json` returned, now or before `rgb`, `notes`, `tags`, `feature` and `limits` existed.

        Keys that are missing are taken from the sensor of that name, if its bands are the same.
        """
        known = _looks(values["name"], tuple(values["bands"]), values["modality"]) | dict(values)
        return cls(**known | {k: tuple(known[k]) for k in _TUPLES})

    def subset(self, bands: Collection[str]) -> "SensorSpec":
        """Returns the sensor that stores only some of the bands, in the order of this one.

        Its name is that of this sensor and the bands, as 's2_l2a:B02+B03+B04'; `sensor` knows it. All other facts are
        those of this sensor, the statistics band by band.

        Raises:
          UserError: no band, a band that this sensor does not have, or one named twice.
        """
        known, seen = " ".join(self.bands), " ".join(bands)
        if not bands or not set(bands) <= set(self.bands) or len(set(bands)) < len(bands):
            raise UserError(f"the bands '{seen}' are no part of sensor '{self.name}', which has {known}; name some of "
                            "these, each once")
        kept = [number for number, band in enumerate(self.bands) if band in bands]
        if len(kept) == len(self.bands):
            return self
        chosen: dict[str, Any] = {key: tuple(getattr(self, key)[number] for number in kept)
                                  for key in ("bands", "mean", "std")}
        name = f"{self.name.partition(_OF)[0]}{_OF}{'+'.join(chosen['bands'])}"
        rgb = self.rgb if set(self.rgb) <= set(bands) else ()
        return dataclasses.replace(self, name=name, rgb=rgb, **chosen)

    def stored_as(self, names: Sequence[str]) -> "SensorSpec":
        """Returns the sensor of files that hold bands of these names: this one, or the subset that they have.

        Names of something else, such as a mask, are of no account.

        Raises:
          UserError: no band of this sensor; one twice; or some are missing while others look like a misspelt band.
        """
        held = [band for band in names if band in self.bands]
        missing = [band for band in self.bands if band not in held]
        strange = [name for name in names if name not in self.bands and _BAND.fullmatch(name)]
        if not held or len(set(held)) < len(held) or (missing and strange):
            twice = next((f", and {band} is there twice" for band in held if held.count(band) > 1), "")
            other = f", and {' '.join(strange)} is none of its bands" if strange else ""
            raise UserError(f"the bands {' '.join(names)} lack {' '.join(missing) or 'none'} of sensor '{self.name}'"
                            f"{twice}{other}; name each band once, as {' '.join(self.bands)} (some of them are enough)")
        return self.subset(held)

    def holds_data(self, image: Any) -> Any:
        """Returns bool [..., height, width], True for a pixel that holds data.

        Args:
          image: [..., height, width, bands] stored integers of this sensor, a NumPy or JAX array.
        """
        if self.no_data is None:
            return (image == image).all(axis=-1)  # all True, of the image's kind of array
        return (image != self.no_data).any(axis=-1)

    def check_matches(self, other: "SensorSpec", seen_in: str, expected_by: str) -> None:
        """Raises UserError unless `other` (seen in one place) stores the same bands, order and unit as this spec."""
        for key in ("bands", "unit", "scale", "dtype", "no_data"):
            seen, expected = getattr(other, key), getattr(self, key)
            if seen != expected:
                raise UserError(f"sensor {key} differ: {seen_in} has '{other.name}' {key}={seen}, {expected_by} "
                                f"expects '{self.name}' {key}={expected}; use data and a checkpoint of one sensor")


_L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
_L1C = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_SSL4EO = "SSL4EO-S12 v1.0, 50k samples (arXiv 2211.07044, dataset code); no +1000 offset"
_TRUE_COLOUR = ("B04", "B03", "B02")
_SENTINEL = ("sentinel",)
_DECIBELS = (
    "From dB, use `stored = 100 * dB`; from linear power, `stored = 100 * 10 * log10(power)`. Not-a-number and zero "
    "power are no data, never 0 dB (a very bright target).")
_REFLECTANCE = (
    "From reflectance in 0..1, use `stored = 10000 * reflectance`. Products of processing baseline 04.00 and later "
    "store this number plus 1000: subtract 1000 first, or every band is shifted.")

SENSORS: Mapping[str, SensorSpec] = {spec.name: spec for spec in (
    SensorSpec("s1_grd", "sar", ("VV", "VH"), "dB (sigma0, GRD)", 0.01, "int16", -32768,
               (-1254.8, -2019.2), (525.7, 591.2), _SSL4EO, notes=_DECIBELS, tags=_SENTINEL),
    SensorSpec("s1_rtc", "sar", ("VV", "VH"), "dB (gamma0, RTC)", 0.01, "int16", -32768,
               (-1093.0, -1732.9), (439.1, 445.9), "TerraMind v1 pre-training statistics of TerraMesh S1RTC",
               notes=_DECIBELS, tags=_SENTINEL),
    SensorSpec("s2_l2a", "optical", _L2A, "surface reflectance (L2A, offset removed)", 1e-4, "uint16", 0,
               (752.40, 884.30, 1144.16, 1297.47, 1624.91, 2194.64, 2422.21, 2517.76, 2581.65, 2645.52, 2368.51,
                1805.07),
               (1108.03, 1155.15, 1183.63, 1368.11, 1370.27, 1355.55, 1416.51, 1474.79, 1439.31, 1582.28, 1455.52,
                1343.48), _SSL4EO, rgb=_TRUE_COLOUR, notes=_REFLECTANCE, tags=_SENTINEL),
    SensorSpec("s2_l1c", "optical", _L1C, "top-of-atmosphere reflectance (L1C, offset removed)", 1e-4, "uint16", 0,
               (1605.58, 1390.78, 1314.87, 1363.52, 1549.44, 2091.75, 2371.72, 2299.90, 2560.30, 830.07, 22.10, 2177.07,
                1524.07),
               (786.79, 850.35, 875.06, 1138.85, 1122.18, 1161.59, 1274.39, 1248.43, 1345.53, 577.32, 51.15, 1336.10,
                1136.54), _SSL4EO, rgb=_TRUE_COLOUR, notes=_REFLECTANCE, tags=_SENTINEL),
    SensorSpec("so2sat_s2", "optical", ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
               "top-of-atmosphere reflectance (L1C, offset removed)", 1e-4, "uint16", 0,
               (1237.57, 1092.77, 1010.86, 1142.40, 1592.66, 1814.72, 1745.74, 1950.16, 1542.85, 1090.51),
               (395.88, 477.78, 663.66, 635.89, 774.44, 910.16, 921.85, 1016.46, 999.18, 878.06),
               "So2Sat LCZ42, training set (torchgeo)", rgb=_TRUE_COLOUR, notes=_REFLECTANCE, tags=_SENTINEL),
    # OMBRIA stretched every radar image to its own minimum and maximum: the unit is lost, only contrast remains.
    SensorSpec("ombria_s1", "sar", ("VV",), "grey level, stretched per image", 1.0, "uint8", None,
               (144.144,), (53.281,), "`data_prep stats` on OMBRIA, train split", tags=_SENTINEL),
    SensorSpec("ombria_s2", "optical", ("B11", "B08", "B03"), "reflectance x 255, wraps in bright cloud", 1.0, "uint8",
               None, (59.638, 68.750, 34.349), (32.534, 34.883, 30.793), "`data_prep stats` on OMBRIA, train split",
               rgb=("B11", "B08", "B03"), tags=_SENTINEL),
    # Pictures for the eye: each source stretched its values in a way of its own, and the units are lost.
    SensorSpec("s1_vh", "sar", ("VH",), "grey level of the amplitude", 1.0, "uint8", None,
               (121.59,), (47.45,), "`data_prep stats` on the Los Angeles and San Antonio pairs, train split",
               tags=_SENTINEL),
    SensorSpec("s2_rgb", "optical", _TRUE_COLOUR, "grey level of a true-colour picture", 1.0, "uint8", None,
               (87.41, 97.12, 104.08), (50.46, 33.69, 28.81), "`data_prep stats` on EuroSAT RGB, train split",
               rgb=_TRUE_COLOUR, tags=_SENTINEL),
)}


def before(feature: str) -> str:
    """Returns the feature of the image that shows the place of the image `feature` at the date before a change."""
    return f"{feature}_before"


def dates(feature: str, both: bool) -> dict[str, str]:
    """Returns what an image shows -> its feature: 'input' alone, or 'before' and 'after' a change."""
    return {"before": before(feature), "after": feature} if both else {"input": feature}


def sensor(name: str) -> SensorSpec:
    """Returns the spec called `name`, out of `SENSORS` or, as 's2_l2a:B02+B03+B04', with some bands of one of these.

    Raises:
      UserError: there is no such sensor, with the nearest name, or it has no such bands.
    """
    whole, of, bands = name.partition(_OF)
    if whole not in SENSORS:
        raise UserError(f"unknown sensor '{whole}'; {nearest(whole, SENSORS)}")
    return SENSORS[whole].subset(bands.split("+")) if of else SENSORS[whole]


def _looks(name: str, bands: tuple[str, ...], modality: str) -> dict[str, Any]:
    """Returns the facts of `_LOOKS` for a stored sensor that lacks them: those of `SENSORS`, or the defaults."""
    try:
        known = sensor(name)
    except UserError:  # of another version
        known = None
    if known is not None and known.bands == bands:
        return {key: getattr(known, key) for key in _LOOKS}
    return {"rgb": (), "notes": "", "tags": (), "feature": "s1" if modality == "sar" else "s2", "limits": ()}
