"""Lists of scenes: a STAC ItemCollection, or a JSON list of our own."""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.geotiff_statements import bands_said
from dual_encoder.imagery.sensors import SensorSpec

_FLAGS = {"s1": "s1", "s2": "s2", "before": "s1_before", "s2_before": "s2_before"}


def scenes(path: str, sensors: Mapping[str, SensorSpec]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields (name of the map, name of the image -> path of its scene).

    Args:
      path: a JSON file. Either a list of objects such as {"id": "lagos", "s1": "a.tif", "s2": "b.tif"}, with 'before'
        and 's2_before' for a change; or a STAC ItemCollection, of which each item is a map, with a local asset for each
        band ('vv', 'vh', 'B02' or 'blue', ...). Paths are relative to the file.
      sensors: of the model.

    Raises:
      UserError: the file cannot be read, or an item lacks a band.
    """
    try:
        said = json.loads(pathlib.Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--scenes={path} cannot be read ({one_line(error, 120)}); give a STAC ItemCollection or a "
                        "JSON list of scenes") from error
    items = said.get("features") if isinstance(said, dict) else said
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise UserError(f"--scenes={path} is no STAC ItemCollection and no list of objects, or it is empty; "
                        'write [{"id": "a", "s1": "a.tif"}, ...]')
    folder, names = pathlib.Path(path).parent, set[str]()
    for number, item in enumerate(items, start=1):
        name = re.sub(r"[^\w.-]", "_", str(item.get("id", f"scene{number}")))
        if name in names:
            raise UserError(f"--scenes={path} has two scenes of id '{name}'; give each its own")
        names.add(name)
        yield name, (_of_assets(item, sensors, folder, name) if "assets" in item else {
            _FLAGS[key]: str(folder / str(value)) for key, value in item.items() if key in _FLAGS})


def _of_assets(item: Mapping[str, Any], sensors: Mapping[str, SensorSpec], folder: pathlib.Path, name: str
               ) -> dict[str, str]:
    paths = {}
    for image, spec in sensors.items():
        found: dict[str, str] = {}
        for key, asset in item["assets"].items():
            said = bands_said(str(key), spec.feature)
            if len(said) == 1:
                found.setdefault(said[0], _local(str(asset.get("href", "")), folder, name))
        if missing := [band for band in spec.bands if band not in found]:
            raise UserError(f"item '{name}' has no asset for band {' '.join(missing)} of {spec.name}; it has "
                            f"{' '.join(sorted(item['assets']))}")
        files = [found[band] for band in spec.bands]
        paths[image] = f"{{{'|'.join(files)}}}" if len(set(files)) > 1 else files[0]
    return paths


def _local(href: str, folder: pathlib.Path, name: str) -> str:
    if re.match(r"(?!file:)\w+://", href):
        raise UserError(f"item '{name}' has the asset '{href}', which is not on this disk; fetch it and write the "
                        "local path")
    return str(folder / href.removeprefix("file://"))
