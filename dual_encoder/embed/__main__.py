"""Writes the vectors of many images as GeoParquet.

    python -m dual_encoder.embed --workdir=runs/pretrain --data=data/s1s2_pairs/bigearthnet/1.0.0 --out=vectors
    python -m dual_encoder.embed --workdir=runs/pretrain --data=OWN_GEOTIFFS --size=128 --out=vectors
    python -m dual_encoder.embed --workdir=runs/pretrain --s1=SCENE.tif --s2=SCENE --size=128 --out=vectors

A folder without manifest.json is read by an importer of data_prep, --importer=geotiff unless you name another; see
data_prep/importers/geotiff.py for the layout. Scenes have any size; a geotiff.json in their folder, or above it,
describes them, and --raster=FILE.tif writes their vectors as a raster, too. If the command is killed, run it again:
finished files stay.
"""

import argparse
import contextlib
import pathlib
import shlex
import sys

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import say
from dual_encoder.data.manifest import MANIFEST
from dual_encoder.embed import raster
from dual_encoder.embed.scenes import Scenes
from dual_encoder.embed.sources import DataSet, RawData, Source
from dual_encoder.embed.write import Job, embed
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.inference.encoder import Encoder, load
from dual_encoder.runtime import compilation_cache, heap


def main() -> None:
    """Embeds as the command line says; exit code 2 and one line for a user's mistake."""
    flags = _parser().parse_args()
    exit_on_user_error(lambda: _run(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.embed", __doc__)
    parser.add_argument("--workdir", required=True, help="of a run, or the folder of an exported encoder")
    parser.add_argument("--step", type=int, default=-1,
                        help="checkpoint; -1, the default, is the one that the run chose, or else the newest")
    parser.add_argument("--data", type=pathlib.Path, help="a built data set, or a folder of raw images")
    parser.add_argument("--s1", default="", metavar="SCENE", help="a radar scene: a file, or a folder of band files")
    parser.add_argument("--s2", default="", metavar="SCENE", help="an optical scene, of the same place")
    parser.add_argument("--description", default="", metavar="FILE",
                        help="geotiff.json of the scenes (default: the one in their folder or above)")
    parser.add_argument("--strict", action="store_true", help="a damaged part of a scene is an error, not no-data")
    parser.add_argument("--raster", type=pathlib.Path, metavar="FILE", help="of scenes: write a raster of vectors, too")
    parser.add_argument("--split", default="", help="of a data set; several joined by '+' (default: all)")
    parser.add_argument("--importer", default="geotiff", help="for raw images (default: %(default)s)")
    parser.add_argument("--kind", choices=("pairs", "tiles"), default="",
                        help="of raw images; tiles have labels (default: pairs, or tiles if there are none)")
    parser.add_argument("--sensors", default="", metavar="s1,s2", help="to embed (default: all that the run has)")
    parser.add_argument("--size", type=int, default=0, metavar="PX",
                        help="cut raw images and scenes into patches of this size")
    parser.add_argument("--vectors", choices=("projected", "pooled"), default="projected",
                        help="projected (default): both sensors in one space; pooled: features below the heads")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="int8 has a scale per row")
    parser.add_argument("--rows", type=int, default=32768, help="entries per file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    return parser


def _run(flags: argparse.Namespace) -> None:
    for name, least in (("rows", 1), ("batch_size", 1), ("size", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; expected at least {least}")
    heap.keep()
    say(compilation_cache.start())
    encoder = load(flags.workdir, flags.step)
    encoder.check_vectors(flags.vectors)
    with contextlib.ExitStack() as stack:
        source = _scenes(flags, encoder, stack) if flags.s1 or flags.s2 else _source(flags, encoder)
        if not len(source):
            raise UserError(f"'{flags.data}' has no images in --split={flags.split or 'all'}; choose another split")
        job = Job(encoder, flags.workdir, source, flags.vectors, flags.dtype, flags.rows, flags.batch_size,
                  shlex.join(["python", "-m", "dual_encoder.embed", *sys.argv[1:]]))
        embed(job, flags.out)
        if isinstance(source, Scenes):
            for line in source.faults():
                say(line)
            if flags.raster:
                tables = [flags.out / name for name in job.files]
                for path in raster.write(flags.raster, tables, source.grid, flags.dtype):
                    say(f"raster: {path}")


def _sensors(flags: argparse.Namespace, encoder: Encoder) -> dict[str, SensorSpec]:
    """Returns the sensors to embed: those of the encoder that the flags name."""
    scenes = [name for name in ("s1", "s2") if getattr(flags, name)]
    wanted = scenes or (flags.sensors.split(",") if flags.sensors else list(encoder.sensors))
    if missing := [name for name in wanted if name not in encoder.sensors]:
        given = f"--{missing[0]} is given" if scenes else f"--sensors names '{missing[0]}'"
        raise UserError(f"{given}; the run has {', '.join(encoder.sensors)}")
    return {name: spec for name, spec in encoder.sensors.items() if name in wanted}


def _scenes(flags: argparse.Namespace, encoder: Encoder, stack: contextlib.ExitStack) -> Scenes:
    """Returns the patches of the scenes that the flags name."""
    if flags.data:
        raise UserError("--data and scenes are given; give either --data, or --s1 and --s2")
    if not flags.size:
        raise UserError("--size is missing; give the side of the patches of a scene in pixels, such as --size=128")
    if flags.raster and flags.raster.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--raster is '{flags.raster}'; expected a name that ends in .tif")
    sensors = _sensors(flags, encoder)
    return Scenes({name: getattr(flags, name) for name in sensors}, sensors, flags.size, stack, flags.description,
                  flags.strict)


def _source(flags: argparse.Namespace, encoder: Encoder) -> Source:
    """Returns the images of the folder that the flags name."""
    if flags.data is None:
        raise UserError("there are no images; give --data=FOLDER, or scenes by --s1 and --s2")
    if flags.raster or flags.description or flags.strict:
        raise UserError("--raster, --description and --strict are for scenes, --s1 and --s2; leave them out")
    sensors = _sensors(flags, encoder)
    if not flags.data.is_dir():
        raise UserError(f"--data '{flags.data}' is no folder; give a built data set, or a folder of raw images")
    if not (flags.data / MANIFEST).is_file():
        return RawData(flags.data, flags.importer, flags.kind, sensors, flags.size)
    if flags.size:
        raise UserError("--size cuts raw images; the images of a built data set have one size: leave it out")
    return DataSet(flags.data, sensors, flags.split)


if __name__ == "__main__":
    main()
