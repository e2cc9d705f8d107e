"""Writes a first geotiff.json of a folder of own GeoTIFFs, says why, and tries it.

A value that neither the files nor their pixels tell is '?', and the section 'decide' says what to choose. A build
refuses '?'. Values of a geotiff.json that lies there already are kept.
"""

import itertools
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.build.selection import USUAL_DEGREES, fitting_degrees
from data_prep.describe import names, roles, values
from data_prep.describe.roles import STACK, Role
from data_prep.importers import Entry, Reject, Unmatched, _geotiff_json, open_raw
from data_prep.importers._geotiff_names import Pattern
from data_prep.importers._geotiff_rows import TABLES
from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_json, plausibility
from dual_encoder.imagery.geotiff_json import NAME
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.storage import atomic

_LOOKS = 12  # images that are looked at
_TRIES = 8  # records that are read with the new description
_LISTED = 20_000  # records that are listed, for the splits
_CHOICES = {
    "s1.product": "'grd' (sigma0, as of Google Earth Engine) or 'rtc' (gamma0, terrain-flattened)",
    "s1.unit": "'dB' or 'linear' (power, not amplitude)",
    "s2.unit": "'reflectance x 10000' or 'reflectance' (0..1)",
    "s2.offset": "0 or 1000: what processing baseline 04.00 (2022) added and is still in the values",
    "label.classes": "a name for each value, as {\"land\": 0, \"water\": 1}",
}
_Section = dict[str, Any]


def describe(raw: pathlib.Path, answers: Sequence[str], anew: bool) -> Iterator[str]:
    """Writes <raw>/geotiff.json, and yields lines: what was found and why, what to decide, the next command.

    Args:
      raw: the folder.
      answers: 'SECTION.KEY=VALUE', a value that a person knows.
      anew: leave values of a geotiff.json that lies there out of account.

    Raises:
      UserError: no image, an unreadable one, or an answer that has no such form.
    """
    found = roles.find(raw)
    roles.check_any(raw, found)
    draft = _Draft(raw, found)
    kept, stated = {} if anew else _kept(raw), _answers(answers)
    said = _merged(draft.said, _merged(kept, stated))
    decide = {key: text for key, text in draft.decide.items() if _value(said, key) in ("?", None)}
    said.pop("decide", None)
    if decide:
        said["decide"] = decide
    for name, role in sorted(found.items()):
        yield f"{name}: {len(role.paths)} files{', one for each band' * role.per_band}"
    for key, text in draft.why.items():
        how = "stated by you" if _value(stated, key) is not None else f"as {NAME} says" if _value(
            kept, key) is not None else text
        yield f"  {key} = {json.dumps(_value(said, key), ensure_ascii=False)}  ({how})"
    atomic.write(raw / NAME, _text(said).encode())
    yield f"wrote {raw / NAME}; compare it with what you know of your images"
    for key, text in decide.items():
        yield f"decide {key}: {text}"
    if decide:
        chosen = " ".join(f"--set={key}=VALUE" for key in decide)
        yield (f"next: python -m data_prep describe {shlex.quote(str(raw))} {chosen} (or write the values in "
               f"place of '?' in {NAME})")
        return
    yield from _tried(raw, draft.side)


class _Draft:
    """A description as far as the files tell it.

    Attributes:
      said: the content of geotiff.json.
      why: 'SECTION.KEY' -> how it is known, in order.
      decide: 'SECTION.KEY' -> what to choose, for each '?'.
      side: least side of the images, in pixels.
    """

    def __init__(self, raw: pathlib.Path, found: Mapping[str, Role]):
        self.said: dict[str, Any] = {}
        self.why: dict[str, str] = {}
        self.decide: dict[str, str] = {}
        self._raw, self._found = raw, found
        patterns = names.choose(found)
        looks = {name: self._look(name, patterns.get(name, "")) for name in found if name != "label"}
        size, self.side = values.size([image for name, images in looks.items() if name != "s1" or len(looks) == 1
                                       for image in images])
        if size:
            self._set("", "size", size, "of all images that were looked at")
        for feature in ("s1", "s2"):
            name = feature if feature in found else STACK
            if name in found:
                self._image(feature, name, patterns.get(name, ""), looks[name])
        if "label" in found:
            self._label(patterns.get("label", ""), found["label"].paths)

    def _set(self, section: str, key: str, value: Any, why: str) -> None:
        (self.said.setdefault(section, {}) if section else self.said)[key] = value
        path = f"{section}.{key}" if section else key
        self.why[path] = why
        if value == "?":
            self.decide[path] = "; ".join(filter(None, [why, _CHOICES.get(path, "")]))

    def _look(self, name: str, pattern: str) -> list[values.Image]:
        """Looks at some images of a role, evenly spaced."""
        paths, tokens = names.usual(self._found[name]), names.bands(self._found[name].paths)
        if not self._found[name].per_band:
            return [values.look(self._raw, {"": paths[at]}, name) for at in _evenly(len(paths))]
        if not pattern:
            return [values.look(self._raw, {band: next(p for p in paths if tokens[band] in p)
                                            for band in tokens}, name)]
        fits = Pattern(name, pattern, tokens, tuple(tokens))
        images: dict[tuple[str, str], dict[str, str]] = {}
        for path in paths:
            if (file := fits.found(path)) and (band := next(
                    (band for at, band in enumerate(tokens) if file.bits >> at & 1), "")):
                images.setdefault((file.place, file.date), {}).setdefault(band, path)
        most = max(map(len, images.values()))
        whole = [{band: files[band] for band in tokens if band in files} for files in images.values()
                 if len(files) == most]
        return [values.look(self._raw, whole[at], name) for at in _evenly(len(whole))]

    def _files(self, section: str, pattern: str, count: int) -> None:
        if any((self._raw / table).is_file() for table in TABLES):
            return
        why = f"fits {count} files" if pattern else (
            "the names have no text in common that could be the place: give a pattern with {place}, or leave 'files' "
            "out of all sections and list the images in pairs.csv")
        self._set(section, "files", pattern or "?", why)

    def _image(self, feature: str, name: str, pattern: str, images: Sequence[values.Image]) -> None:
        role = self._found[name]
        self._files(feature, pattern, len(role.paths))
        listed, how = values.bands(images, name)
        if role.per_band:
            listed, how = list(names.bands(role.paths)), "as the names of the files say"
        bands: Any = names.bands(role.paths) if role.per_band and any(
            band != text for band, text in names.bands(role.paths).items()) else listed
        self._set(feature, "bands", bands or "?", how)
        ours = [band for band in listed if band in _bands_of(feature)] or listed
        at = [listed.index(band) for band in ours] or [0]
        if feature == "s1":
            self._set(feature, "unit", *values.radar_unit(images, at))
            product, text = values.radar_product(images, [pathlib.PurePath(path).stem for path in role.paths[:_LOOKS]])
            self._set(feature, "product", product, f"'{text}'" if text else "no file says it")
            if (no_data := values.radar_no_data(images, at)) is not None:
                self._set(feature, "no_data", no_data, "below any backscatter")
            return
        level = "l1c" if "B10" in ours else "l2a"
        self._set(feature, "level", level, f"the bands are {'with' if level == 'l1c' else 'without'} B10")
        unit, why = values.optical_unit(images, at)
        self._set(feature, "unit", unit, why)
        if unit != "?":
            self._set(feature, "offset", *values.optical_offset(images, at, ours, unit))

    def _label(self, pattern: str, paths: Sequence[str]) -> None:
        self._files("label", pattern, len(paths))
        found, count = values.label_values(self._raw, paths)
        ignore = [value for value in found if value < 0 or value == 255]
        classes = {f"class_{value}": value for value in found if value not in ignore}
        self._set("label", "classes", classes, f"the values of {count} files; give the classes names of your own")
        if ignore:
            self._set("label", "ignore", ignore, "no class")


def _tried(raw: pathlib.Path, side: int) -> Iterator[str]:
    """Reads some records with the description, and yields what came out and the command to build with."""
    said = _geotiff_json.read(raw)  # raises an error that names what is still wrong
    kind = "tiles" if said.labels is not None else "pairs" if len(said.images) == 2 else ""
    if not kind:
        yield ("one sensor and no label: pairs need both sensors, tiles a label; put the other images into the folder, "
               "and run the same command again")
        return
    sensors = {feature: images.spec.name for feature, images in said.images.items()}
    importer = open_raw("geotiff", raw, kind, sensors, cut=not said.size)
    entries: list[Entry] = []
    for item in itertools.islice(importer.entries(), _LISTED):
        if isinstance(item, Unmatched):
            yield f"not taken: {item.count} files, first '{item.id}': {item.reason}"
        elif isinstance(item, Reject):
            yield f"not usable: '{item.id}': {item.reason}"
        else:
            entries.append(item)
    if not entries:
        raise UserError(f"no record is found with '{raw / NAME}'; mend the patterns in 'files'")
    records = [importer.read(entries[at]) for at in _evenly(len(entries), _TRIES)]
    yield f"tried: {len(entries)} {kind}, {len(records)} of them read"
    for feature, name in sensors.items():
        samples = [plausibility.sample(record.images[feature]) for record in records]
        least = min(map(len, samples))
        removed = np.array([record.s2_offset_removed for record in records])
        for outcome in plausibility.judge(np.stack([part[:least] for part in samples]), SENSORS[name], removed):
            if outcome.broken.any():
                yield (f"implausible: {feature} {outcome.rule} in {outcome.broken.sum()} of {len(records)}: "
                       f"{outcome.seen(int(outcome.broken.argmax()))}; {plausibility.RULES[outcome.rule].advice}")
    options = f" --kind={kind}" * (kind == "tiles") + f" --size={_patch(side)}" * (not said.size)
    split, warning = _split(entries)
    if warning:
        yield warning
    build = f"python -m data_prep build --importer=geotiff --raw={shlex.quote(str(raw))} --data_dir=data"
    if kind == "tiles" and len(said.images) == 2:
        yield f"for pre-training: {build}{options.replace(' --kind=tiles', '')}{split}"
    yield f"next: {build}{options}{split}"


def _split(entries: Sequence[Entry]) -> tuple[str, str]:
    """Returns the options of a split into three parts with two places each, and a warning if there is none."""
    if any(entry.split for entry in entries):
        return "", ""
    if degrees := fitting_degrees(entries):
        return ("" if degrees == USUAL_DEGREES else f" --block-degrees={degrees:g}"), ""
    return "", ("warning: too few places for three splits; give a split of your own in pairs.csv, or more images")


def _patch(side: int) -> int:
    return next((size for size in (256, 128, 64) if size <= side), side)


def _bands_of(feature: str) -> set[str]:
    return {band for spec in SENSORS.values() if spec.feature == feature for band in spec.bands}


def _evenly(count: int, most: int = _LOOKS) -> list[int]:
    return sorted({at * count // min(count, most) for at in range(min(count, most))})


def _kept(raw: pathlib.Path) -> dict[str, Any]:
    """Returns the values of a geotiff.json that a person decided or wrote."""
    if not (raw / NAME).is_file():
        return {}
    faults: list[str] = []
    try:
        said = geotiff_json.parse(raw / NAME, faults)
        geotiff_json.tell(raw / NAME, faults)
    except UserError as error:
        raise UserError(f"{error}; mend it, or give --anew to write it again") from error

    def known(values: Mapping[str, Any]) -> dict[str, Any]:
        return {key: known(value) if isinstance(value, dict) else value for key, value in values.items()
                if value != "?"}

    return known({key: value for key, value in said.items() if key != "decide"})


def _answers(texts: Sequence[str]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        section, _, name = key.rpartition(".")
        if not (equals and name):
            raise UserError(f"--set={text} has no such form; expected SECTION.KEY=VALUE, such as --set=s1.product=grd")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        (answers.setdefault(section, {}) if section else answers)[name] = parsed
    return answers


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Returns two descriptions in one; values of the second count, section by section."""
    merged = dict(first)
    for key, value in second.items():
        merged[key] = {**first.get(key, {}), **value} if isinstance(value, dict) and isinstance(
            first.get(key, {}), dict) else value
    return merged


def _value(said: Mapping[str, Any], path: str) -> Any:
    section, _, key = path.rpartition(".")
    part = said.get(section) if section else said
    return part.get(key) if isinstance(part, Mapping) else None


def _text(said: Mapping[str, Any]) -> str:
    """Returns JSON with one key of a section per line."""
    parts = []
    for key, value in said.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(item, ensure_ascii=False)}"
                              for name, item in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{rows}\n }}")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
