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
from dual_encoder.evaluation.area_errors import LEVELS
from dual_encoder.inference.segmenter import Segmenter, load_segmentation
from dual_encoder.predict import areas, listed, mosaic, one_map
from dual_encoder.predict.flags import add_map_flags, check_names, paths, request
from dual_encoder.predict.permanent import permanent_water
from dual_encoder.runtime import compilation_cache

_FURTHER_FILES = ("preview", "polygons", "areas")  # of a map
_ID = "{id}"  # in their names, with --scenes: the id of a scene
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
    add("--out", required=True, help="the map, a .tif; with --scenes a folder")
    add_map_flags(parser)
    add("--before", default="", help="Sentinel-1 scene before the change, of a run with config.change")
    add("--s2-before", default="", help="Sentinel-2 scene before the change")
    add("--scenes", default="", help="JSON list of scenes or STAC ItemCollection: a map of each, in the folder --out; "
                                     "--preview, --polygons and --areas then have {id} in their names")
    add("--mosaic", default="", help="with --scenes: one map of all of them")
    add("--min-area", type=float, default=0.1, help="hectares of the smallest polygon (default %(default)s)")
    add("--simplify", type=float, default=1.0, help="pixels by which outlines may move (default %(default)s; 0: none)")
    add("--permanent-water", default="", help="raster or polygons: water there is called permanent water")
    add("--areas", default="", help="CSV of the hectares of each class with an interval, after dual_encoder.calibrate; "
                                    "with --districts also a GeoPackage or a GeoJSON")
    add("--districts", default="", help="file of polygons: the areas in each of them, too")
    add("--district-key", default="name", help="the property with the name of a district (default %(default)s)")
    add("--level", type=float, default=0.9, choices=LEVELS, help="of the intervals (default %(default)s)")
    add("--strict", action="store_true", help="stop at damaged parts of a scene, which are no data otherwise")
    return parser


def _main(flags: argparse.Namespace) -> None:
    os.environ.setdefault("GDAL_CACHEMAX", _CACHE)
    scenes = paths(flags)
    _check(flags, scenes)
    compilation_cache.start()
    permanent = permanent_water(flags.permanent_water) if flags.permanent_water else None
    if not flags.scenes:
        segmenter = load_segmentation(flags.workdir, flags.step, [name for name in ("s1", "s2") if name in scenes])
        _say_calibration(segmenter)
        one_map.make(segmenter, _request(flags, scenes, flags.out), permanent)
        return
    segmenter = load_segmentation(flags.workdir, flags.step)
    _say_calibration(segmenter)
    folder, maps = pathlib.Path(flags.out), []
    for name, scene in list(listed.scenes(flags.scenes, segmenter.sensors)):
        maps.append(folder / f"{name}.tif")
        if maps[-1].exists():
            say(f"map: {maps[-1]} is there; delete it to make it again")
            continue
        named = {flag: getattr(flags, flag).replace(_ID, name) for flag in _FURTHER_FILES}
        one_map.make(segmenter, _request(argparse.Namespace(**vars(flags) | named), scene, maps[-1]), permanent)
    if flags.mosaic:
        mosaic.write_mosaic(pathlib.Path(flags.mosaic), maps)
        say(f"mosaic: {flags.mosaic} of {len(maps)} maps")


def _say_calibration(segmenter: Segmenter) -> None:
    found = segmenter.calibration
    say(f"probabilities: calibrated on {found.data}, temperature {found.temperature:.3f}" if found else
        f"probabilities: {segmenter.not_calibrated}")


def _check(flags: argparse.Namespace, scenes: dict[str, str]) -> None:
    """Raises UserError for flags that do not fit together."""
    if bool(scenes) == bool(flags.scenes):
        raise UserError("give either --s1=SCENE (and --s2=SCENE), or --scenes=FILE")
    for flag in _FURTHER_FILES if flags.scenes else ():
        path = pathlib.Path(getattr(flags, flag))
        if path.name and _ID not in path.name:
            raise UserError(f"--{flag}={path} is one file, and --scenes gives a map for each scene; put the id of the "
                            f"scene into its name: --{flag}={path.with_name(f'{_ID}{path.suffix}')}")
    if flags.areas:
        areas.check_name(flags.areas, flags.districts)
    elif flags.districts:
        raise UserError(f"--districts={flags.districts} is given, but not where its areas go; give --areas=FILE.csv")
    if flags.mosaic and not flags.scenes:
        raise UserError("--mosaic joins the maps of --scenes; give these, or leave it out")
    check_names(flags, {"--out": "" if flags.scenes else flags.out, "--mosaic": flags.mosaic})


def _request(flags: argparse.Namespace, scenes: dict[str, str], out: str | pathlib.Path) -> one_map.Request:
    return request(flags, scenes, out, minimum=flags.min_area, simplify=flags.simplify,
                   permanent=flags.permanent_water, strict=flags.strict, areas=flags.areas,
                   districts=flags.districts, district_key=flags.district_key, level=flags.level)


if __name__ == "__main__":
    main()
