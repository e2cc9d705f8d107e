"""Makes a map of a scene with a fine-tuned segmentation run.

    python -m dual_encoder.predict --workdir=runs/flood --s1=SCENE.tif --out=map.tif --preview=map.png

A scene is a GeoTIFF or JPEG 2000 of any size, or a folder with a file for each band. The geotiff.json in its folder, or
in one of three folders above, says what its bands and units are: data_prep/importers/geotiff.py. A run that was killed
goes on when the same command is started again. docs/maps.md describes all flags, and the limits of such maps.
"""

import argparse
import os
import pathlib

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.inference.segmenter import load_segmentation
from dual_encoder.predict import listed, mosaic, one_map, polygons
from dual_encoder.predict.permanent import permanent_water
from dual_encoder.runtime import compilation_cache

_CACHE = "256"  # MB of decoded tiles that GDAL keeps; its default is a twentieth of all memory


def main() -> None:
    """Makes the maps that the command line names. A user's mistake gives one line and exit code 2."""
    parser = _parser()
    flags = parser.parse_args()
    exit_on_user_error(lambda: _main(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.predict", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a fine-tuned segmentation run")
    add("--step", type=int, help="checkpoint to take; the newest by default")
    add("--s1", default="", help="Sentinel-1 scene; it gives the grid of the map")
    add("--s2", default="", help="Sentinel-2 scene; on another grid it is brought to that of --s1")
    add("--before", default="", help="Sentinel-1 scene before the change, of a run with config.change")
    add("--s2-before", default="", help="Sentinel-2 scene before the change")
    add("--scenes", default="", help="JSON list of scenes or STAC ItemCollection: a map of each, in the folder --out")
    add("--out", required=True, help="the map, a .tif; with --scenes a folder")
    add("--mosaic", default="", help="with --scenes: one map of all of them")
    add("--description", default="", help="the geotiff.json of the scenes, if it does not lie with them")
    add("--aoi", default="", help="west,south,east,north in degrees, or a file of polygons: map this area only")
    add("--probabilities", action="store_true", help="write the probability of each class, too, in per cent")
    add("--uncertainty", action="store_true", help="write the entropy of the classes, too, in per cent of log(classes)")
    add("--preview", default="", help="PNG with legend, scale bar and north arrow")
    add("--polygons", default="", help="GeoPackage or GeoJSON of the areas of each class, with hectares")
    add("--min-area", type=float, default=0.1, help="hectares of the smallest polygon (default %(default)s)")
    add("--simplify", type=float, default=1.0, help="pixels by which outlines may move (default %(default)s; 0: none)")
    add("--permanent-water", default="", help="raster or polygons: water there is called permanent water")
    add("--window", type=int, default=0, help="side of the windows in pixels; smaller ones need less memory")
    add("--margin", type=int, default=-1, help="pixels at each side of a window that do not count")
    add("--strict", action="store_true", help="stop at damaged parts of a scene, which are no data otherwise")
    return parser


def _main(flags: argparse.Namespace) -> None:
    os.environ.setdefault("GDAL_CACHEMAX", _CACHE)
    paths = {name: path for name, path in (("s1", flags.s1), ("s2", flags.s2), ("s1_before", flags.before),
                                           ("s2_before", flags.s2_before)) if path}
    _check(flags, paths)
    compilation_cache.start()
    permanent = permanent_water(flags.permanent_water) if flags.permanent_water else None
    if not flags.scenes:
        segmenter = load_segmentation(flags.workdir, flags.step, [name for name in ("s1", "s2") if name in paths])
        one_map.make(segmenter, _request(flags, paths, pathlib.Path(flags.out)), permanent)
        return
    segmenter = load_segmentation(flags.workdir, flags.step)
    folder, maps = pathlib.Path(flags.out), []
    for name, scene in list(listed.scenes(flags.scenes, segmenter.sensors)):
        maps.append(folder / f"{name}.tif")
        if maps[-1].exists():
            say(f"map: {maps[-1]} is there; delete it to make it again")
            continue
        one_map.make(segmenter, _request(flags, scene, maps[-1]), permanent)
    if flags.mosaic:
        mosaic.write_mosaic(pathlib.Path(flags.mosaic), maps)
        say(f"mosaic: {flags.mosaic} of {len(maps)} maps")


def _check(flags: argparse.Namespace, paths: dict[str, str]) -> None:
    """Raises UserError for flags that do not fit together."""
    if bool(paths) == bool(flags.scenes):
        raise UserError("give either --s1=SCENE (and --s2=SCENE), or --scenes=FILE")
    if flags.scenes and (flags.preview or flags.polygons):
        raise UserError("--preview and --polygons are of one map; leave them out with --scenes")
    if flags.mosaic and not flags.scenes:
        raise UserError("--mosaic joins the maps of --scenes; give these, or leave it out")
    for flag, path in (("--out", "" if flags.scenes else flags.out), ("--mosaic", flags.mosaic)):
        if path and pathlib.Path(path).suffix.lower() not in (".tif", ".tiff"):
            raise UserError(f"{flag}={path} is no name of a GeoTIFF; end it in .tif")
    if flags.polygons:
        polygons.check_name(flags.polygons)


def _request(flags: argparse.Namespace, paths: dict[str, str], out: pathlib.Path) -> one_map.Request:
    return one_map.Request(
        paths, out, flags.description, flags.aoi, flags.probabilities, flags.uncertainty, flags.preview, flags.polygons,
        flags.min_area, flags.simplify, flags.permanent_water, flags.window, flags.margin, flags.strict)


if __name__ == "__main__":
    main()
