"""The flags of all commands that make a map of a scene, and the request that they are."""

import argparse
import pathlib

from dual_encoder.errors import UserError
from dual_encoder.predict import polygons
from dual_encoder.predict.description import FLAGS
from dual_encoder.predict.one_map import Request


def add_map_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the checkpoint, of the scenes of one date, and of a map."""
    add = parser.add_argument
    add("--step", type=int, help="checkpoint to take; by default the one that the run chose, or else the newest")
    add("--s1", default="", help="Sentinel-1 scene; it gives the grid of the map")
    add("--s2", default="", help="Sentinel-2 scene; on another grid it is brought to that of --s1")
    add("--description", default="", help="the geotiff.json of the scenes, if it does not lie with them")
    add("--aoi", default="", help="west,south,east,north in degrees, or a file of polygons: map this area only")
    add("--probabilities", action="store_true", help="write the probability of each class, too, in per cent")
    add("--uncertainty", action="store_true", help="write the entropy of the classes, too, in per cent of log(classes)")
    add("--preview", default="", help="PNG with legend, scale bar and north arrow")
    add("--polygons", default="", help="GeoPackage or GeoJSON of the areas of each class, with hectares")
    add("--window", type=int, default=0, help="side of the windows in pixels; smaller ones need less memory")
    add("--margin", type=int, default=-1, help="pixels at each side of a window that do not count")


def paths(flags: argparse.Namespace) -> dict[str, str]:
    """Returns name of an image -> path of its scene, of the scenes that are given."""
    given = {name: getattr(flags, flag[2:].replace("-", "_"), "") for name, flag in FLAGS.items()}
    return {name: path for name, path in given.items() if path}


def check_names(flags: argparse.Namespace, maps: dict[str, str]) -> None:
    """Raises UserError unless the files to write have names of their kinds; `maps`: flag -> a map, '' = none."""
    for flag, path in maps.items():
        if path and pathlib.Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise UserError(f"{flag}={path} is no name of a GeoTIFF; end it in .tif")
    if flags.polygons:
        polygons.check_name(flags.polygons)


def request(flags: argparse.Namespace, scenes: dict[str, str], out: str | pathlib.Path, **more: object) -> Request:
    """Returns the request of a map; `more` are further values of it."""
    values = {name: getattr(flags, name) for name in (
        "description", "probabilities", "uncertainty", "preview", "polygons", "window", "margin")}
    return Request(scenes, pathlib.Path(out), area=flags.aoi, **values | more)
