"""The form of manifest.json: types, lengths and ranges of its values, checked before any of them is used."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_MOST = 1 << 50  # bytes or records, more than any disk holds
_LARGEST = 1 << 31  # bytes of a tensor; a TFRecord of TensorFlow holds no more


def parse(data: bytes) -> dict[str, Any]:
    """Returns the content of a manifest.

    Raises:
      ValueError: not JSON, NaN or an infinite number, a key is missing, or a value is not of its type or range. The
        message names the key and the value.
    """
    try:
        values = json.loads(data, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds {_shown(values)}, expected an object")
    for key in ("name", "config", "version", "fingerprint"):
        _text(values, key)
    for key, group in _groups(values, "source").items():
        _require(isinstance(group, str) and _printable(group), f"source.{key}", group, "text")
    tensors = _groups(values, "tensors")
    for name, tensor in tensors.items():
        _check_tensor(tensor, f"tensors.{name}")
    for name, spec in _groups(values, "sensors").items():
        _check_sensor(spec, f"sensors.{name}")
        shape = tensors[name]["shape"] if name in tensors else None
        _require(shape is not None and len(shape) == 3 and shape[2] == len(spec["bands"]), f"tensors.{name}", shape,
                 f"[height, width, {len(spec['bands'])}]")
    _texts(values, "classes", "classes")
    if "label" in tensors:
        label = values.get("label", {"kind": "pixel_classes"})
        _require(isinstance(label, dict) and all(map(_printable, label.values())) and "kind" in label, "label", label,
                 "kind and unit, texts")
    for split, entries in _groups(values, "shards").items():
        _require(isinstance(entries, list) and bool(entries), f"shards.{split}", entries, "a list of shards")
        for number, entry in enumerate(entries):
            _check_shard(entry, f"shards.{split}[{number}]")
    return values


def _check_tensor(tensor: Any, where: str) -> None:
    _require(isinstance(tensor, dict), where, tensor, "dtype and shape")
    dtype, shape = tensor.get("dtype"), tensor.get("shape")
    _require(isinstance(dtype, str) and _is_numeric(dtype), f"{where}.dtype", dtype, "the name of a NumPy number")
    _require(isinstance(shape, list) and all(_is_count(size) and size > 0 for size in shape)
             and math.prod(shape) * np.dtype(dtype).itemsize <= _LARGEST, f"{where}.shape", shape,
             "sizes of at least 1, at most 2 GiB together")


def _check_sensor(spec: Any, where: str) -> None:
    _require(isinstance(spec, dict), where, spec, "the facts of a sensor")
    for key in ("name", "modality", "unit", "dtype", "provenance"):
        _text(spec, key, f"{where}.")
    _texts(spec, "bands", f"{where}.bands")
    for key in ("rgb", "tags"):
        if key in spec:
            _texts(spec, key, f"{where}.{key}")
    limits = spec.get("limits", [])
    _require(isinstance(limits, list) and len(limits) in (0, 2) and all(map(_is_number, limits)), f"{where}.limits",
             limits, "the lowest and the highest normalised value")
    for key in ("notes", "feature"):
        if key in spec:
            _text(spec, key, f"{where}.")
    _require(bool(spec["bands"]), f"{where}.bands", [], "at least one band")
    _require(_is_numeric(spec["dtype"]), f"{where}.dtype", spec["dtype"], "the name of a NumPy number")
    _require(_is_number(spec.get("scale")) and spec["scale"] > 0, f"{where}.scale", spec.get("scale"),
             "a positive number")
    no_data = spec.get("no_data")
    _require(no_data is None or isinstance(no_data, int) and not isinstance(no_data, bool)
             and np.iinfo(np.int64).min <= no_data <= np.iinfo(np.int64).max, f"{where}.no_data", no_data,
             "a whole number or null")
    for key in ("mean", "std"):
        numbers = spec.get(key)
        _require(isinstance(numbers, list) and len(numbers) == len(spec["bands"]) and all(map(_is_number, numbers)),
                 f"{where}.{key}", numbers, "a finite number per band")


def _check_shard(entry: Any, where: str) -> None:
    _require(isinstance(entry, dict), where, entry, "file, bytes, records and sha256")
    for key in ("file", "sha256"):
        _text(entry, key, f"{where}.")
    _require(not set("/\\") & set(entry["file"]) and entry["file"].strip("."), f"{where}.file", entry["file"],
             "the name of a file in the folder of the manifest")
    for key in ("bytes", "records"):
        _require(_is_count(entry.get(key)), f"{where}.{key}", entry.get(key), "a count")


def _groups(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    group = values.get(key)
    _require(isinstance(group, dict) and all(map(_printable, group)), key, group, "an object")
    assert isinstance(group, dict)
    return group


def _text(values: Mapping[str, Any], key: str, where: str = "") -> None:
    _require(_printable(values.get(key)), f"{where}{key}", values.get(key), "text")


def _texts(values: Mapping[str, Any], key: str, where: str) -> None:
    texts = values.get(key)
    _require(isinstance(texts, list) and all(map(_printable, texts)), where, texts, "a list of texts")


def _require(holds: bool, where: str, seen: Any, expected: str) -> None:
    if not holds:
        raise ValueError(f"{where} is {_shown(seen)}, expected {expected}")


def _printable(value: Any) -> bool:
    """True for text that can be printed and be part of a path: no half of a surrogate pair, no NUL."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode()
    except UnicodeEncodeError:
        return False


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def _is_numeric(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except (TypeError, ValueError):
        return False


def _shown(value: Any) -> str:
    """Returns a value in a few characters of ASCII."""
    if isinstance(value, int) and abs(value) > _MOST:
        return "a huge number"
    return ascii(value)[:60]


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds the number {name}")
