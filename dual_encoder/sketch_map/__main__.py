"""Makes a map of a scene from a few labelled polygons, without training: a linear classifier of frozen features.

    python -m dual_encoder.sketch_map --labels=few.geojson --s1=SCENE.tif --workdir=runs/pretrain --out=map.tif

The polygons have a property 'class' (--class-key). The scene is described by a geotiff.json, as for
`python -m dual_encoder.predict`; docs/maps.md describes the flags that both commands have.
"""

import argparse
import contextlib

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.inference.frozen_maps import load_frozen_maps
from dual_encoder.predict import one_map
from dual_encoder.predict.description import open_scenes
from dual_encoder.predict.flags import add_map_flags, check_names, paths, request
from dual_encoder.predict.windows import choose
from dual_encoder.runtime import compilation_cache
from dual_encoder.sketch_map.fit import Sketch, fit
from dual_encoder.sketch_map.labels import Labels, draw_pixels, read_labels

_LEAST = 0.1  # hectares of the smallest polygon


def main() -> None:
    """Makes the map that the command line names. A user's mistake gives one line and exit code 2."""
    flags = _parser().parse_args()
    exit_on_user_error(lambda: _main(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.sketch_map", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a run whose encoders are used, usually of pre-training")
    add("--labels", required=True, help="polygons with classes: GeoJSON, GeoPackage, ...")
    add("--class-key", default="class", help="property that holds the class (default: %(default)s)")
    add("--out", required=True, help="the map, a .tif")
    add_map_flags(parser)
    return parser


def _main(flags: argparse.Namespace) -> None:
    given = paths(flags)
    if not given:
        raise UserError("there is no scene; give --s1=SCENE, --s2=SCENE or both")
    check_names(flags, {"--out": flags.out})
    compilation_cache.start()
    frozen = load_frozen_maps(flags.workdir, tuple(given), flags.step)
    facts = frozen.facts
    windows = choose(facts.stride, facts.transformer, facts.trained_on, flags.window, flags.margin)
    with contextlib.ExitStack() as stack:
        scenes = open_scenes(given, frozen.sensors, stack, flags.description)
        grid = next(iter(scenes.values())).grid
        labels = read_labels(flags.labels, flags.class_key, grid)
        sketch = fit(frozen, scenes, labels, draw_pixels(labels, grid, windows), windows)
    _tell(labels, sketch)
    one_map.make(sketch.classifier, request(flags, given, flags.out, minimum=_LEAST), None)


def _tell(labels: Labels, sketch: Sketch) -> None:
    for number, name in enumerate(labels.classes):
        right = "" if sketch.right is None else f", {sketch.right[number]:.0%} right when their polygons are left out"
        say(f"  {name}: {sketch.pixels[number]} pixels of {labels.numbers.count(number)} polygons{right}")
    if sketch.right is None:
        say("  draw at least two polygons of each class, and it is said here how well the classes are told apart")


if __name__ == "__main__":
    main()
