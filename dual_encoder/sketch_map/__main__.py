"""Makes a map of a scene from a few labelled polygons, without training: a linear classifier of frozen features.

    python -m dual_encoder.sketch_map --labels=few.geojson --s1=SCENE.tif --workdir=runs/pretrain --out=map.tif

The polygons have a property 'class' (--class-key). The scene is described by a geotiff.json, as for
`python -m dual_encoder.predict`; docs/maps.md describes the flags that both commands have.
"""

import argparse
import contextlib
import pathlib

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.inference.frozen_maps import load_frozen_maps
from dual_encoder.predict import one_map, polygons
from dual_encoder.predict.description import open_scenes
from dual_encoder.predict.windows import choose
from dual_encoder.runtime import compilation_cache
from dual_encoder.sketch_map.fit import Sketch, fit
from dual_encoder.sketch_map.labels import Labels, draw_pixels, read_labels


def main() -> None:
    """Makes the map that the command line names. A user's mistake gives one line and exit code 2."""
    flags = _parser().parse_args()
    exit_on_user_error(lambda: _main(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.sketch_map", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a run whose encoders are used, usually of pre-training")
    add("--step", type=int, help="checkpoint to take; the newest by default")
    add("--labels", required=True, help="polygons with classes: GeoJSON, GeoPackage, ...")
    add("--class-key", default="class", help="property that holds the class (default: %(default)s)")
    add("--s1", default="", help="Sentinel-1 scene; it gives the grid of the map")
    add("--s2", default="", help="Sentinel-2 scene; on another grid it is brought to that of --s1")
    add("--out", required=True, help="the map, a .tif")
    add("--description", default="", help="the geotiff.json of the scenes, if it does not lie with them")
    add("--aoi", default="", help="west,south,east,north in degrees, or a file of polygons: map this area only")
    add("--probabilities", action="store_true", help="write the probability of each class, too, in per cent")
    add("--uncertainty", action="store_true", help="write the entropy of the classes, too, in per cent of log(classes)")
    add("--preview", default="", help="PNG with legend, scale bar and north arrow")
    add("--polygons", default="", help="GeoPackage or GeoJSON of the areas of each class, with hectares")
    add("--window", type=int, default=0, help="side of the windows in pixels")
    add("--margin", type=int, default=-1, help="pixels at each side of a window that do not count")
    return parser


def _main(flags: argparse.Namespace) -> None:
    paths = {name: path for name, path in (("s1", flags.s1), ("s2", flags.s2)) if path}
    if not paths:
        raise UserError("there is no scene; give --s1=SCENE, --s2=SCENE or both")
    if pathlib.Path(flags.out).suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out={flags.out} is no name of a GeoTIFF; end it in .tif")
    if flags.polygons:
        polygons.check_name(flags.polygons)
    compilation_cache.start()
    frozen = load_frozen_maps(flags.workdir, tuple(paths), flags.step)
    windows = choose(frozen.stride, frozen.transformer, frozen.trained_on, flags.window, flags.margin)
    with contextlib.ExitStack() as stack:
        scenes = open_scenes(paths, frozen.sensors, stack, flags.description)
        grid = next(iter(scenes.values())).grid
        labels = read_labels(flags.labels, flags.class_key, grid)
        sketch = fit(frozen, scenes, labels, draw_pixels(labels, grid, windows), windows)
    _tell(labels, sketch)
    one_map.make(sketch.classifier, one_map.Request(
        paths, pathlib.Path(flags.out), flags.description, flags.aoi, flags.probabilities, flags.uncertainty,
        flags.preview, flags.polygons, minimum=0.1, window=flags.window, margin=flags.margin), None)


def _tell(labels: Labels, sketch: Sketch) -> None:
    for number, name in enumerate(labels.classes):
        right = "" if sketch.right is None else f", {sketch.right[number]:.0%} right when their polygons are left out"
        say(f"  {name}: {sketch.pixels[number]} pixels of {labels.numbers.count(number)} polygons{right}")
    if sketch.right is None:
        say("  draw at least two polygons of each class, and it is said here how well the classes are told apart")


if __name__ == "__main__":
    main()
