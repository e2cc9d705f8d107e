"""Compares what a file says about itself with what geotiff.json says about it.

A file makes statements by its descriptions, tags, units, scale and offset, and by its name. A statement is taken only
if it is clear: a text that holds exactly one band's name, such as 'Sigma0_VH_db', 'S2_B8A_20m' or '0_VH'. A clear
statement that contradicts geotiff.json is an error that shows both.
"""

import itertools
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dual_encoder.errors import UserError
from dual_encoder.imagery.geotiff_json import NAME, Images
from dual_encoder.imagery.raster import Raster

_RADAR = re.compile(r"(?<![A-Za-z])(VV|VH|HH|HV)(?=(?:dB)?(?![A-Za-z]))", re.I)
_OPTICAL = re.compile(r"(?<![A-Za-z0-9])B(\d{1,2}|0?8A)(?![A-Za-z0-9])", re.I)
_COMMON = {"coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
           "rededge3": "B07", "nir": "B08", "nir08": "B8A", "nir09": "B09", "cirrus": "B10", "swir16": "B11",
           "swir22": "B12"}
_COLOURS = {"red": ("B04",), "green": ("B03",), "blue": ("B02",), "coastal": ("B01",),
            "nir": ("B08", "B8A", "B07"), "rededge": ("B05", "B06", "B07"), "swir": ("B11", "B12", "B10")}
_DEFAULT_COLOURS = ("red", "green", "blue")  # of the first three bands of any file that was written as a picture
_UNITS = {"db": "dB", "decibel": "dB", "decibels": "dB", "linear": "linear", "power": "linear", "intensity": "linear",
          "amplitude": "amplitude", "magnitude": "amplitude"}
_NAME_UNITS = ("db", "linear", "amplitude")  # the others occur in names of places
_PRODUCTS = {"sigma0": "grd", "gamma0": "rtc", "beta0": "beta0"}
_MEANING = {"grd": "sigma0", "rtc": "gamma0"}
_HYP3 = re.compile(r"_RTC\d+_\w_([gs])([pda])[uf]")
_HYP3_SAYS = {"g": "gamma0", "s": "sigma0", "p": "power", "d": "dB", "a": "amplitude"}
_LISTS = re.compile(r"band|channel|layer|descriptions?$|names?$", re.I)
_LEVEL = re.compile(r"(?<![A-Za-z0-9])(?:S2MSI|MSIL|L|Level[- ]?)(1C|2A)(?![A-Za-z0-9])", re.I)


def bands_said(text: str, feature: str) -> list[str]:
    """Returns the bands that a text names, each once, in order; 'B02' of 'b2', 'Band 2' names none.

    Args:
      text: a description, a tag or a name of a file.
      feature: 's1' or 's2'.
    """
    if feature == "s1":
        found = [name.upper() for name in _RADAR.findall(text.replace("_", " "))]
    elif text.strip().lower() in _COMMON:
        found = [_COMMON[text.strip().lower()]]
    else:
        found = ["B8A" if "8A" in number.upper() else f"B{int(number):02d}"
                 for number in _OPTICAL.findall(text.replace("_", " "))]
    return list(dict.fromkeys(found))


def check_count(images: Images, band: str, image: Raster, path: pathlib.Path) -> None:
    """Compares the number of bands in a file with that of geotiff.json.

    Args:
      images: the description of the sensor's images.
      band: the band that the path stands for; '' = all bands are in one file.
      image: the file's content.
      path: of the file.

    Raises:
      UserError: the file has another number of bands.
    """
    count = len(image.values)
    if band and count != 1:
        raise UserError(f"'{path}' has {count} bands, expected {band} only")
    if not band and images.names and count != len(images.names):
        raise UserError(f"'{path}' has {count} bands, {NAME} lists {len(images.names)}; name all, in order")


def order(images: Images, image: Raster, path: pathlib.Path) -> tuple[list[int], str]:
    """Finds the bands of a sensor in a file that holds all of them.

    Args:
      images: the description of the sensor's images.
      image: the file's content.
      path: of the file.

    Returns:
      the place in the file of each band of the sensor, and how it is known: a remark for the summary of the build.

    Raises:
      UserError: a statement of the file contradicts geotiff.json, or neither of them names the bands.
    """
    seen_bands = list(seen(images, image, path))
    described = [band for band, _ in seen_bands]
    names = list(images.names) or described
    for number, ((band, text), said) in enumerate(zip(seen_bands, names, strict=True), start=1):
        if band and band != said:
            raise UserError(f"'{path}' calls a band {band}, {NAME} calls it {said}; list the bands of "
                            f"{images.spec.name} in the order of the file, "
                            f"{' '.join(band or '?' for band in described)} (its band {number} is '{text}')")
    if not images.names:
        for band in filter(None, described):
            if described.count(band) > 1:
                raise UserError(f"'{path}' calls two of its bands {band}; list its bands in {NAME}")
    missing = [band for band in images.spec.bands if band not in names]
    if missing:
        raise UserError(f"'{path}' does not say which band is {' '.join(missing)} (it has "
                        f"{' '.join(filter(None, described)) or 'no descriptions'}); list its bands in {NAME}")
    known = all(band in described for band in images.spec.bands)
    how = "bands as the files name them" if known else f"order of the bands taken from {NAME}"
    return [names.index(band) for band in images.spec.bands], f"{images.feature}: {how}"


def check_band(images: Images, band: str, image: Raster, path: pathlib.Path) -> None:
    """Compares a file of one band with the band that its path stands for.

    Raises:
      UserError: the file or its name says another band.
    """
    texts = [*image.said.texts[0], *([] if _numbered(images) else [path.stem])]
    for text in texts:
        said = bands_said(text, images.feature)
        if len(said) == 1 and said[0] != band and text.lower() != "b1":  # the first band of any file
            raise UserError(f"'{path}' calls its band '{text}' ({said[0]}), {NAME} takes it for {band}; mend "
                            f"{images.feature}.bands of {NAME} or the names")


def check_unit(images: Images, image: Raster, path: pathlib.Path) -> None:
    """Compares unit and product of a radar file, or the level of an optical one, with geotiff.json.

    Raises:
      UserError: a statement of the file or its name contradicts it.
    """
    texts = [*itertools.chain(*image.said.texts), *image.said.units]
    name = path.stem
    if images.feature == "s2":
        tags = [value for key, value in image.said.tags.items() if key in ("PROCESSING_LEVEL", "PRODUCT_TYPE")]
        _check_level(images, [*texts, name, *tags], path)
        return
    if re.search(r"_1S[SD]H_", name):
        raise UserError(f"'{path}' is by its name a product with HH and HV, expected VV and VH; leave it out")
    product = "rtc" if images.spec.name.endswith("rtc") else "grd"
    stated = {"unit": str(images.convention), "product": product}
    units, products = _said(texts, _UNITS), _said([*texts, name], _PRODUCTS)
    units = units or _said([name], {word: _UNITS[word] for word in _NAME_UNITS})
    if match := _HYP3.search(name):
        products = products or {_PRODUCTS[_HYP3_SAYS[match[1]]]: match[0].strip("_")}
        units = units or {_UNITS[_HYP3_SAYS[match[2]].lower()]: match[0].strip("_")}
    for key, found in (("unit", units), ("product", products)):
        if said := next((meaning for meaning in found if meaning != stated[key]), ""):
            meant = _MEANING.get(said, said)
            raise UserError(f"'{path}' says '{found[said]}' ({meant}), s1.{key} of {NAME} is '{stated[key]}'"
                            f"{f' ({_MEANING[product]})' if key == 'product' else ''}; mend the one that is wrong")


def optical_offset(image: Raster, offset: int, path: pathlib.Path) -> None:
    """Compares scale and offset of an optical file, reflectance = value x scale + offset, with the stated DN offset.

    Args:
      image: the file's content.
      offset: the DN offset that geotiff.json or the table states, 0 or 1000.
      path: of the file.

    Raises:
      UserError: the file says another offset, or a scale other than that of reflectance x 10000.
    """
    for scale, shift in zip(image.said.scales, image.said.offsets, strict=True):
        if (scale, shift) == (1, 0):
            continue
        says = f"'{path}' says reflectance = value x {scale:g} + {shift:g}"
        if not (scale == 1 or math.isclose(scale, 1e-4, rel_tol=1e-3)):
            raise UserError(f"{says}, expected a scale of 0.0001 (reflectance x 10000); convert the values or mend the "
                            "tags")
        said = 0 - (shift if abs(shift) >= 1 else shift / scale)  # in DN, or in reflectance
        if abs(said - offset) > 1:
            raise UserError(f"{says}, an offset of {said:.0f}, {NAME} states {offset}; mend the one that is wrong")
    tags = {key: value for key, value in image.said.tags.items() if re.match(r"(BOA|RADIO)_ADD_OFFSET", key, re.I)}
    for key, value in tags.items():
        if re.fullmatch(r"\s*-?\d+(\.0*)?\s*", value) and -float(value) != offset:
            raise UserError(f"'{path}' has the tag {key}={value.strip()}, {NAME} states the offset {offset}; mend the "
                            "one that is wrong")


def seen(images: Images, image: Raster, path: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yields (band, text that says it) of each band of a file, ('', '') if the file is silent about it.

    Args:
      images: the description of the sensor's images; `names` may be ().
      image: the file's content.
      path: of the file.
    """
    count = len(image.values)
    found = [_first([*texts, *numbered], images.feature) for texts, numbered in zip(
        image.said.texts, _of_numbers(image.said.tags, count), strict=True)]
    if not any(band for band, _ in found):
        for text in (*_listed(image.said.tags), path.stem):
            if len(bands := bands_said(text, images.feature)) == count > 1:
                found = [(band, text[:60]) for band in bands]
                break
    if images.feature == "s2":
        found = _with_colours(found, image.said.colours, images)
        known = {*images.spec.bands, *images.names}
        if any(band and band not in known for band, _ in found) and _counted(found):
            found = [("", "")] * count  # b1, b2, ... are numbers of bands, not names
    yield from found


def products_said(texts: Iterable[str]) -> dict[str, str]:
    """Returns a product ('grd', 'rtc', or one that is not read) -> the text that says it, of descriptions and names."""
    return _said(texts, _PRODUCTS | {"grd": "grd", "grdh": "grd", "rtc": "rtc"})


def _counted(found: Sequence[tuple[str, str]]) -> bool:
    """Returns True for names that only count: b1, b2, b3, ... without a gap, or from b0."""
    numbers = [int(band[1:]) for band, _ in found if band and band != "B8A"]
    return len(numbers) == len(found) and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _first(texts: Iterable[str], feature: str) -> tuple[str, str]:
    return next(((said[0], text) for text in texts if len(said := bands_said(text, feature)) == 1), ("", ""))


def _of_numbers(tags: Mapping[str, str], count: int) -> list[list[str]]:
    """Returns the tags of the whole file that name one band by its number: Band_1=Sigma0_VH, as in ENVI's headers."""
    texts: dict[int, list[str]] = {}
    for key, value in tags.items():
        if match := re.fullmatch(r"(?:band|layer|channel)[ _-]?(\d{1,3})(?:[ _-]?name)?", key, re.I):
            texts.setdefault(int(match[1]), []).append(value)
    first = min(texts, default=1)  # 0 or 1
    return [texts.get(number + first, []) if first in (0, 1) else [] for number in range(count)]


def _listed(tags: Mapping[str, str]) -> Iterator[str]:
    """Yields the tags of a whole file that may list its bands."""
    for key, value in tags.items():
        if _LISTS.search(key):
            yield value


def _with_colours(found: list[tuple[str, str]], colours: Sequence[str], images: Images) -> list[tuple[str, str]]:
    """Adds what the colours of bands say, unless they are those that any picture has.

    A colour that fits several bands says nothing if the stated one is among them.
    """
    if tuple(colours[:3]) == _DEFAULT_COLOURS and not set(colours[3:]) - {"", "alpha"}:
        return found
    result = []
    for number, (seen, colour) in enumerate(zip(found, colours, strict=True)):
        bands = _COLOURS.get(colour.lower(), ())
        said = images.names[number] if number < len(images.names) else ""
        silent = seen[0] or not bands or said in bands or (not said and len(bands) > 1)
        result.append(seen if silent else (bands[0], colour))
    return result


def _numbered(images: Images) -> bool:
    """Returns True if the texts for {band} are numbers of another kind: 'B9' for B8A, because there is a 'B10'."""
    said = {band for text in images.tokens.values() for band in bands_said(text, images.feature)}
    return bool(said - set(images.spec.bands)) and images.feature == "s2"


def _said(texts: Iterable[str], words: Mapping[str, str]) -> dict[str, str]:
    """Returns meaning -> text, of the texts in which words of one meaning occur."""
    found: dict[str, str] = {}
    for text in texts:
        parts = [re.sub(r"^(vv|vh)(?=db$)", "", part) for part in re.split(r"[^A-Za-z0-9]+", text.lower())]
        if len(meanings := {words[part] for part in parts if part in words}) == 1:
            found.setdefault(meanings.pop(), text)
    return found


def _check_level(images: Images, texts: Sequence[str], path: pathlib.Path) -> None:
    level = images.spec.name.removeprefix("s2_").upper()
    for text in texts:
        said = {f"L{match[1].upper()}": match[0] for match in _LEVEL.finditer(text.replace("_", " "))}
        if len(said) != 1 or level in said:
            continue
        raise UserError(f"'{path}' says '{next(iter(said.values()))}', s2.level of {NAME} is '{level.lower()}'; mend "
                        "the one that is wrong")
    baseline = re.search(r"_N(\d{4})_", path.stem)
    if baseline and int(baseline[1]) < 400 and images.convention == 1000:
        raise UserError(f"'{path}' is by its name of processing baseline {baseline[1]}, which adds no offset; "
                        f"s2.offset of {NAME} is 1000, expected 0")
