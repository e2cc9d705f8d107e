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
from collections.abc import Iterator, Sequence

import numpy as np

from dual_encoder.imagery.s2_offset import OFFSET, detect_s2_offset, shows_offset
from dual_encoder.imagery.sensors import SensorSpec

_PIXELS = 576  # of an image, evenly spaced: the figures below need no more
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
)}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one rule on one image.

    Attributes:
      rule: its name.
      seen: the figures, as 'median of VV +21.9 dB, expected below -2'; '' if the image keeps the rule.
    """

    rule: str
    seen: str


def judge(image: np.ndarray, spec: SensorSpec, removed: int = 0) -> list[Finding]:
    """Looks at a stored image; returns a finding for each rule that can judge it.

    Args:
      image: [height, width, bands], stored integers of `spec`.
      spec: the sensor. Of one that has no physical unit (grey levels), only 'one_value' is looked at.
      removed: the DN offset that was subtracted from a Sentinel-2 image.
    """
    step = max(1, int(np.sqrt(image.shape[0] * image.shape[1] / _PIXELS)))
    part = image[step // 2::step, step // 2::step]
    pixels = part[spec.holds_data(part)]
    if len(pixels) < _LEAST:
        return []
    return list(_findings(pixels, spec, removed))


def _findings(pixels: np.ndarray, spec: SensorSpec, removed: int) -> Iterator[Finding]:
    # Sorting along the last axis of a copy is faster than along the first.
    ordered = np.sort(np.ascontiguousarray(pixels.T), axis=1).T  # of each band; percentiles are rows
    found: list[Finding] = []
    if spec.modality == "sar" and spec.unit.startswith("dB"):
        found = list(_radar(ordered, spec))
    elif spec.modality == "optical" and spec.scale == 1e-4:
        found = list(_optical(pixels, ordered, spec, removed))
    yield from found
    if not any(finding.seen for finding in found if finding.rule.endswith("_scale")):
        yield _one_value(pixels, spec)  # on a wrong scale, rounding makes many pixels equal


def _one_value(pixels: np.ndarray, spec: SensorSpec) -> Finding:
    limit = _ONE_VALUE if spec.dtype != "uint8" else 0.99  # grey levels: black water is common, a constant is not
    # Two pixels of one hash by chance: once in 10^13 images.
    hashes = pixels.astype(np.uint64) @ _WEIGHTS[:pixels.shape[1]]
    ordered = np.sort(hashes)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    counts = np.diff(starts, append=len(ordered))
    share = counts.max() / len(pixels)
    if share <= limit:
        return Finding("one_value", "")
    value = pixels[(hashes == ordered[starts[counts.argmax()]]).argmax()] * spec.scale
    return Finding("one_value", f"{share:.0%} of the pixels hold exactly {' '.join(f'{v:.4g}' for v in value[:3])}"
                   f"{' ...' * (len(value) > 3)} in {' '.join(spec.bands[:3])}{' ...' * (len(value) > 3)}")


def _radar(ordered: np.ndarray, spec: SensorSpec) -> Iterator[Finding]:
    low, middle = (_percentile(ordered, share) * spec.scale for share in (0.05, 0.5))
    brightest = int(middle.argmax())
    # No surface sends so much back from nearly every pixel: cities have a median of -7 dB, and dark pixels as well.
    wrong = low[brightest] > -2 or middle[brightest] < -60
    name, values = spec.bands[brightest], f"{low[brightest]:+.1f} dB at 5 % and {middle[brightest]:+.1f} dB at 50 %"
    yield Finding("radar_scale", f"{name} is {values} of the pixels, expected -30 to -2 dB" if wrong else "")
    crossed = [(spec.bands.index(cross), spec.bands.index(same)) for cross, same in _CROSS.items()
               if cross in spec.bands and same in spec.bands]
    for cross, same in crossed:
        difference = middle[same] - middle[cross]
        # Depolarised backscatter is the weaker one; over calm sea both are noise, and equal within 1 dB.
        yield Finding("polarisations_swapped", "" if difference > -2 else
                      f"{spec.bands[cross]} is {-difference:.1f} dB above {spec.bands[same]}, expected below it")
        if wrong:
            continue
        yield Finding("radar_amplitude", "" if middle[cross] < -12 else
                      f"median of {spec.bands[cross]} is {middle[cross]:+.1f} dB, expected below -12")
        yield Finding("radar_dark", "" if middle[cross] > -36 else
                      f"median of {spec.bands[cross]} is {middle[cross]:+.1f} dB, below the noise of the instrument")


def _optical(pixels: np.ndarray, ordered: np.ndarray, spec: SensorSpec, removed: int) -> Iterator[Finding]:
    middle = {band: float(value) for band, value in zip(spec.bands, _percentile(ordered, 0.5), strict=True)}
    infrared = max((middle[band] for band in _INFRARED if band in middle), default=None)
    visible = [middle[band] for band in _VISIBLE if band in middle]
    if infrared is None or not visible:
        return
    largest = float(ordered[-1].max())
    spread = _percentile(ordered, 0.98) - _percentile(ordered, 0.02).astype(np.float64)
    scale = ""
    if float((pixels.max(axis=1) > 20000).mean()) > 0.2:
        scale = f"a fifth of the pixels is above a reflectance of 2 (largest {largest:.0f})"
    elif largest <= 10:
        scale = f"no value is above {largest:.0f}"
    elif largest <= 1000 and infrared > max(10, 1.2 * visible[len(visible) // 2]):
        # Sea is darkest in the infrared, and so are its images; land is brighter there, and has pixels above 0.1.
        scale = f"no value is above {largest:.0f}, with the infrared ({infrared:.0f}) above the green"
    elif largest <= 255 and float((spread > 80).mean()) >= 0.5:
        scale = f"no value is above {largest:.0f}, and most bands use the whole range"
    yield Finding("reflectance_scale", scale and f"{scale}; expected reflectance x 10000")
    if scale:
        return
    yield from _band_scale(middle, spec)
    yield from _offset(pixels, middle, spec, removed)


def _band_scale(middle: dict[str, float], spec: SensorSpec) -> Iterator[Finding]:
    """Compares each band with the next shorter and longer wavelength; spectra are smooth, apart from water vapour."""
    bands = [band for band in spec.bands if band not in ("B01", "B09", "B10")]
    for before, band, after in zip(bands, bands[1:], bands[2:], strict=False):
        beside = min(middle[before], middle[after])
        if beside >= 300 and middle[band] < 0.08 * beside:
            yield Finding("band_scale", f"median of {band} is {middle[band]:.0f}, of {before} {middle[before]:.0f} and "
                          f"of {after} {middle[after]:.0f}")
            return
    yield Finding("band_scale", "")


def _offset(pixels: np.ndarray, middle: dict[str, float], spec: SensorSpec, removed: int) -> Iterator[Finding]:
    if removed:
        floor = (pixels == 1).mean(axis=0)
        crushed = [band for band in _VISIBLE if band in middle and floor[spec.bands.index(band)] > 0.3]
        if max(middle.values()) > 500:  # land; over sea the subtraction may leave nothing in most bands
            yield Finding("offset_absent", "" if len(crushed) < 2 else
                          f"after the subtraction of {removed} most of {' '.join(crushed)} is at 0")
        else:
            yield Finding("offset_absent", "" if floor.mean() < 0.9 else
                          f"after the subtraction of {removed} {floor.mean():.0%} of all values are at 0")
    if shows_offset(spec.bands) and not _hides_offset(middle):
        found = detect_s2_offset(pixels[None], spec.bands)
        dark = float(np.percentile(pixels, 1, axis=0).min())
        yield Finding("offset_present", "" if found != OFFSET else
                      f"no band is dark anywhere (the darkest has {dark:.0f} at 1 % of the pixels), as with +1000; "
                      f"{removed} was subtracted")


def _hides_offset(middle: dict[str, float]) -> bool:
    """True for cloud and snow, bright in the visible, and for desert, whose red is far above its blue."""
    blue, red = middle.get("B02"), middle.get("B04")
    return blue is None or red is None or blue > 3000 or red > 1.4 * blue


def _percentile(ordered: np.ndarray, share: float) -> np.ndarray:
    """The value of each band below which this share of the pixels lies; `ordered` is sorted along its first axis."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no rule that stops a build."""
    from dual_encoder.errors import UserError, nearest

    for name in names:
        if name not in RULES or not RULES[name].stops:
            stopping = [rule.name for rule in RULES.values() if rule.stops]
            raise UserError(f"'{name}' is no rule that stops a build; {nearest(name, stopping)}")
