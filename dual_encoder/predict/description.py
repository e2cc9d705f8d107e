"""Finds the geotiff.json that describes a scene, and opens the scenes of a map on one grid."""

import contextlib
import pathlib
import re
from collections.abc import Mapping

from dual_encoder.errors import UserError
from dual_encoder.imagery import geotiff_json
from dual_encoder.imagery.geotiff_json import NAME, Images
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.predict.scene import OnGrid, Scene

FLAGS = {"s1": "--s1", "s2": "--s2", "s1_before": "--before", "s2_before": "--s2-before"}  # image -> flag of its scene
_LEVELS = 3  # folders above a scene in which geotiff.json may lie


def describe(path: str, feature: str, description: str = "") -> Images:
    """Returns what geotiff.json says about the images of a sensor.

    Args:
      path: of the scene.
      feature: 's1' or 's2'.
      description: the file; '' = the nearest geotiff.json in the scene's folder or up to three folders above.

    Raises:
      UserError: there is none, it has faults, or it lacks the sensor.
    """
    file = pathlib.Path(description) if description else _nearest(path)
    faults: list[str] = []
    said = geotiff_json.parse(file, faults)
    images = geotiff_json.images(said[feature], feature, faults) if feature in said else None
    geotiff_json.tell(file, faults)
    if images is None:
        raise UserError(f"'{file}' does not describe {feature}, it describes {', '.join(said) or 'nothing'}; add a "
                        f"section '{feature}': data_prep/importers/geotiff.py has an example")
    return images


def open_scenes(paths: Mapping[str, str], sensors: Mapping[str, SensorSpec], stack: contextlib.ExitStack,
                description: str = "", strict: bool = False) -> dict[str, Scene | OnGrid]:
    """Opens the images of a map. The first one gives the grid; images on another grid are resampled to it.

    Args:
      paths: name of the image ('s1', 's2', 's1_before', ...) -> path of its scene.
      sensors: of the model, by the same names.
      stack: closes the files.
      description: as of `describe`.
      strict: as of `Scene`.

    Raises:
      UserError: an image that the model needs is missing, one is there that it does not read, or one is not as
        geotiff.json says.
    """
    if unknown := sorted(set(paths) - set(sensors)):
        raise UserError(f"{FLAGS.get(unknown[0], f'--{unknown[0]}')} is given, but the model reads "
                        f"{' and '.join(sensors)} only; leave it out, or take another run")
    if missing := [name for name in sensors if name not in paths]:
        raise UserError(f"the model reads {' and '.join(sensors)}; give {FLAGS[missing[0]]}=SCENE")
    scenes: dict[str, Scene | OnGrid] = {}
    grid = None
    for name, spec in sensors.items():
        images = describe(paths[name], name.removesuffix("_before"), description)
        spec.check_matches(images.spec, f"'{paths[name]}'", "the run")
        scene = Scene(paths[name], images, spec, strict)
        stack.callback(scene.close)
        scene.check()
        grid = grid or scene.grid
        scenes[name] = scene if scene.grid.matches(grid) else OnGrid(scene, grid)
    return scenes


def _nearest(path: str) -> pathlib.Path:
    first = next(filter(None, re.split(r"[{|}]", path)))  # of a path for each band
    place = pathlib.Path(first).absolute()
    start = place if place.is_dir() else place.parent
    tried = [start, *start.parents][:_LEVELS + 1]
    for folder in tried:
        if (folder / NAME).is_file():
            return folder / NAME
    raise UserError(f"no {NAME} describes '{path}': there is none in '{start}' nor in the {_LEVELS} folders above; "
                    "write one (data_prep/importers/geotiff.py has an example) or give --description=FILE")
