"""Finds images whose values are not those of their sensor: wrong unit, wrong offset, swapped bands, an untagged border.

A statement about files is easily wrong: radar images in linear power that are called decibels can be stored, and nobody
sees it in a training curve. Each rule here looks at a stored image and says what is not possible, or not usual.

The limits come from physics and from the real images of tests/data_prep/test_plausibility.py (BigEarthNet with open
sea, Sen1Floods11, SEN12MS-CR, SSL4EO-S12, TerraMesh, WorldCereal). There:

    radar    median of VV -29.8 to -6.5 dB, of VH -32.2 to -14.0 dB, VV - VH -1.0 to 15.1 dB
    optical  land has pixels above a reflectance of 0.3, and its infrared is brighter than its green;
             images of open sea may stay below 0.01 everywhere, darkest in the infrared
    both     no pixel (all bands together) fills more than 0.6 % of an image

An image that a rule cannot judge does not count for it: thick cloud, snow and desert hide the offset, for example.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.s2_offset import DARK, DARK_SHARE, shows_offset
from dual_encoder.imagery.sensors import SensorSpec

_PIXELS = 256  # of an image, evenly spaced: the figures below need no more
_LEAST = 64  # pixels with data; fewer say nothing
_ONE_VALUE = 0.05  # share of one pixel value; a border of 3 pixels around 120 is 10 %
_WEIGHTS = np.random.default_rng(0).integers(0, 2**64, 64, np.uint64)  # of the bands in a hash of a pixel
_CROSS = {"VH": "VV", "HV": "HH"}
_VISIBLE = ("B02", "B03", "B04")
_INFRARED = ("B08", "B8A", "B11", "B12")


@dataclasses.dataclass(frozen=True)
class Rule:
    """One thing that is looked for.

    Attributes:
      name: a word, for options and tables.
      stops: many such images stop a build; False: it only warns, because some regions look like that.
      advice: what to do.
    """

    name: str
    stops: bool
    advice: str


RULES = {rule.name: rule for rule in (
    Rule("radar_scale", True, "state the right unit, dB or linear power; calibrate digital numbers to sigma0"),
    Rule("radar_amplitude", False, "if the files hold amplitude, square it: power = amplitude^2"),
    Rule("radar_dark", False, "check that dB is 10 log10 of power, not 20 log10"),
    Rule("polarisations_swapped", True, "list the bands in the order of the files"),
    Rule("reflectance_scale", True, "give reflectance x 10000, not images stretched to 8 or 16 bit or another scale"),
    Rule("offset_present", True, "state the offset of 1000 (processing baseline 04.00 and later) and build again"),
    Rule("offset_absent", True, "state offset 0: these images do not have the +1000 that was subtracted"),
    Rule("band_scale", True, "give all bands on one scale, reflectance x 10000"),
    Rule("one_value", True, "name this value as no data, or cut the border off"),
    Rule("constant", False, "look at these images: one value all over teaches nothing"),
)}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One rule on n images.

    Attributes:
      rule: its name.
      judged: bool [n], True for an image that the rule can judge.
      broken: bool [n], True for an image that breaks it.
      seen: number of an image that breaks it -> the figures, as 'VV is +21.9 dB at 50 % ..., expected ...'.
    """

    rule: str
    judged: np.ndarray
    broken: np.ndarray
    seen: Callable[[int], str]


def sample(image: np.ndarray) -> np.ndarray:
    """Returns the pixels of an image that `judge` looks at: some 256, evenly spaced, [pixels, bands], a copy."""
    step = max(1, math.isqrt(image.shape[0] * image.shape[1] // _PIXELS))
    return image[step // 2::step, step // 2::step].reshape(-1, image.shape[2])


def judge(samples: np.ndarray, spec: SensorSpec, removed: np.ndarray) -> list[Outcome]:
    """Looks at stored images. Many at once cost a few microseconds each.

    Args:
      samples: [n, pixels, bands], stored integers of `spec`, as of `sample`.
      spec: the sensor. Of one that has no physical unit (grey levels), only 'one_value' is looked at.
      removed: int [n], the DN offset that was subtracted from each Sentinel-2 image.
    """
    part = _Sample(samples, spec)
    found: list[Outcome] = []
    if spec.modality == "sar" and spec.unit.startswith("dB"):
        found = list(_radar(part))
    elif spec.modality == "optical" and spec.scale == 1e-4:
        found = list(_optical(part, removed))
    scaled = np.zeros(len(samples), bool)
    for outcome in found:
        if outcome.rule.endswith("_scale"):
            scaled |= outcome.broken
    found += _one_value(part, ~scaled)  # on a wrong scale, rounding makes many pixels equal
    return [dataclasses.replace(outcome, judged=outcome.judged & part.enough, broken=outcome.broken & part.enough)
            for outcome in found]


class _Sample:
    """Pixels of n images, those with data in order of their values.

    Attributes:
      pixels: [n, pixels, bands]; valid: bool [n, pixels]; count: int [n], of the valid ones.
      enough: bool [n], True for an image with enough valid pixels.
      spec: the sensor.
    """

    def __init__(self, pixels: np.ndarray, spec: SensorSpec):
        self.pixels, self.spec = pixels, spec
        self.valid = spec.holds_data(pixels)
        self.count = self.valid.sum(axis=1)
        self.enough = self.count >= _LEAST
        last = np.where(self.valid[..., None], pixels, np.iinfo(pixels.dtype).max)  # pixels without data come last
        self._ordered = np.sort(np.ascontiguousarray(last.transpose(0, 2, 1)), axis=2)

    def at(self, share: float) -> np.ndarray:
        """Returns the value below which this share of the valid pixels lies, float64 [n, bands]."""
        rank = np.clip((share * self.count).astype(int), 0, np.maximum(self.count - 1, 0))
        return np.take_along_axis(self._ordered, rank[:, None, None], axis=2)[..., 0].astype(np.float64)

    def share(self, where: np.ndarray) -> np.ndarray:
        """Returns the share of the valid pixels at which `where` holds: [n, pixels, ...] -> [n, ...]."""
        valid = self.valid.reshape(*self.valid.shape, *(1,) * (where.ndim - 2))
        total = (where & valid).sum(axis=1)
        return total / np.maximum(self.count, 1).reshape(-1, *(1,) * (total.ndim - 1))


def _one_value(part: _Sample, judged: np.ndarray) -> Iterator[Outcome]:
    """Looks for one value in a large part of an image, and for images that hold nothing else."""
    limit = _ONE_VALUE if part.spec.dtype != "uint8" else 0.99  # grey levels: black water is common
    # Two pixels of one hash by chance: once in 10^14 images. Pixels without data get numbers of their own.
    hashes = part.pixels.astype(np.uint64) @ _WEIGHTS[:part.pixels.shape[2]]
    hashes = np.where(part.valid, hashes, np.arange(hashes.shape[1], dtype=np.uint64)[None])
    ordered = np.sort(hashes, axis=1)
    broken = np.zeros(len(ordered), bool)
    for count in np.unique(part.count):
        same, run = part.count == count, int(limit * count)
        if run:  # a run of more than `run` equal hashes has equal ends
            broken[same] = (ordered[same, run:] == ordered[same, :-run]).any(axis=1)

    def seen(image: int) -> str:
        _, first, counts = np.unique(hashes[image], return_index=True, return_counts=True)
        value = part.pixels[image, first[counts.argmax()]] * part.spec.scale
        more = " ..." * (len(value) > 3)
        return (f"{counts.max() / part.count[image]:.0%} of the pixels hold exactly "
                f"{' '.join(f'{v:.4g}' for v in value[:3])}{more} in {' '.join(part.spec.bands[:3])}{more}")

    constant = (part.at(0.0) == part.at(1.0)).all(axis=1)
    yield Outcome("one_value", judged, judged & broken & ~constant, seen)
    yield Outcome("constant", judged, judged & constant, seen)


def _radar(part: _Sample) -> Iterator[Outcome]:
    low, middle = part.at(0.05) * part.spec.scale, part.at(0.5) * part.spec.scale
    bands, rows, all_of_them = part.spec.bands, np.arange(len(low)), np.ones(len(low), bool)
    brightest = middle.argmax(axis=1)
    # No surface sends so much back from nearly every pixel: cities have a median of -7 dB, and dark pixels as well.
    wrong = (low[rows, brightest] > -2) | (middle[rows, brightest] < -60)
    yield Outcome("radar_scale", all_of_them, wrong, lambda i: (
        f"{bands[brightest[i]]} is {low[i, brightest[i]]:+.1f} dB at 5 % and {middle[i, brightest[i]]:+.1f} dB at 50 % "
        "of the pixels, expected -30 to -2 dB"))
    for cross, same in _CROSS.items():
        if cross in bands and same in bands:
            yield from _polarisations(middle[:, bands.index(cross)], middle[:, bands.index(same)], cross, same, ~wrong)


def _polarisations(crossed: np.ndarray, direct: np.ndarray, cross: str, same: str, scaled: np.ndarray
                   ) -> Iterator[Outcome]:
    """Compares the medians of two bands, dB [n]; `scaled`: bool [n], their unit is right."""
    # Depolarised backscatter is the weaker one; over calm sea both are noise, and equal within 1 dB.
    yield Outcome("polarisations_swapped", np.ones(len(crossed), bool), crossed >= direct + 2, lambda i: (
        f"{cross} is {crossed[i] - direct[i]:.1f} dB above {same}, expected below it"))
    yield Outcome("radar_amplitude", scaled, scaled & (crossed >= -12), lambda i: (
        f"median of {cross} is {crossed[i]:+.1f} dB, expected below -12"))
    yield Outcome("radar_dark", scaled, scaled & (crossed <= -36), lambda i: (
        f"median of {cross} is {crossed[i]:+.1f} dB, below the noise of the instrument"))


def _optical(part: _Sample, removed: np.ndarray) -> Iterator[Outcome]:
    bands = part.spec.bands
    infrared = [bands.index(band) for band in _INFRARED if band in bands]
    visible = [bands.index(band) for band in _VISIBLE if band in bands]
    if not infrared or not visible:
        return
    middle, largest = part.at(0.5), part.at(1.0).max(axis=1)
    red_and_beyond, green = middle[:, infrared].max(axis=1), middle[:, visible[len(visible) // 2]]
    spread = part.at(0.98) - part.at(0.02)
    reasons = (
        (part.share(part.pixels.max(axis=2) > 20000) > 0.2, "a fifth of the pixels is above a reflectance of 2"),
        (largest <= 10, "nearly all is 0"),
        # Sea is darkest in the infrared, and so are its images; land is brighter there, and has pixels above 0.1.
        ((largest <= 1000) & (red_and_beyond > np.maximum(10, 1.2 * green)), "yet the infrared is above the green"),
        ((largest <= 255) & ((spread > 80).mean(axis=1) >= 0.5), "and most bands use the whole range"))
    wrong = np.any([broken for broken, _ in reasons], axis=0)
    yield Outcome("reflectance_scale", np.ones(len(middle), bool), wrong, lambda i: (
        f"the largest value is {largest[i]:.0f}, {next(why for broken, why in reasons if broken[i])}; expected "
        "reflectance x 10000"))
    yield from _band_scale(middle, bands, ~wrong)
    yield from _offset(part, middle, removed, ~wrong)


def _band_scale(middle: np.ndarray, bands: Sequence[str], judged: np.ndarray) -> Iterator[Outcome]:
    """Compares each band with the next shorter and longer wavelength; spectra are smooth, apart from water vapour."""
    at = [number for number, band in enumerate(bands) if band not in ("B01", "B09", "B10")]
    if len(at) < 3:
        return
    before, here, after = (middle[:, at[start:len(at) - 2 + start]] for start in range(3))
    beside = np.minimum(before, after)
    low = (beside >= 300) & (here < 0.08 * beside)

    def seen(image: int) -> str:
        worst = int(low[image].argmax())
        return (f"median of {bands[at[worst + 1]]} is {here[image, worst]:.0f}, of {bands[at[worst]]} "
                f"{before[image, worst]:.0f} and of {bands[at[worst + 2]]} {after[image, worst]:.0f}")

    yield Outcome("band_scale", judged, judged & low.any(axis=1), seen)


def _offset(part: _Sample, middle: np.ndarray, removed: np.ndarray, judged: np.ndarray) -> Iterator[Outcome]:
    bands = part.spec.bands
    floor = part.share(part.pixels == 1)
    visible = [bands.index(band) for band in _VISIBLE if band in bands]
    # Over sea the subtraction may leave nothing in most bands, over land not in two of the visible ones.
    land = middle.max(axis=1) > 500
    crushed = np.where(land, (floor[:, visible] > 0.3).sum(axis=1) >= 2, floor.mean(axis=1) >= 0.9)
    yield Outcome("offset_absent", judged & (removed != 0), judged & (removed != 0) & crushed, lambda i: (
        f"after the subtraction of {removed[i]}, {floor[i].mean():.0%} of all values are at 0"))
    if not shows_offset(bands) or "B02" not in bands or "B04" not in bands:
        return
    blue, red, dark = middle[:, bands.index("B02")], middle[:, bands.index("B04")], part.at(DARK_SHARE)
    # Cloud and snow, bright in the visible, hide the offset, and so does desert, whose red is far above its blue.
    tells = judged & (blue <= 3000) & (red <= 1.4 * blue)
    filled = part.at(1.0) <= 1  # a product without a band may fill it with a constant
    bright = ((dark >= DARK) | filled).all(axis=1)
    yield Outcome("offset_present", tells, tells & bright, lambda i: (
        f"no band is dark anywhere (the darkest has {dark[i][~filled[i]].min():.0f} at 1 % of the pixels), as with "
        f"+1000; {removed[i]} was subtracted"))


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no rule that stops a build."""
    for name in names:
        if name not in RULES or not RULES[name].stops:
            stopping = [rule.name for rule in RULES.values() if rule.stops]
            raise UserError(f"'{name}' is no rule that stops a build; {nearest(name, stopping)}")
