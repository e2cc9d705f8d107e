"""Writes the vectors of many images as GeoParquet.

    python -m dual_encoder.embed --workdir=runs/pretrain --data=data/s1s2_pairs/bigearthnet/1.0.0 --out=vectors
    python -m dual_encoder.embed --workdir=runs/pretrain --data=OWN_GEOTIFFS --size=128 --out=vectors

A folder without manifest.json is read by an importer of data_prep, --importer=geotiff unless you name another; see
data_prep/importers/geotiff.py for the layout. If the command is killed, run it again: finished files stay.
"""

import argparse
import pathlib
import shlex
import sys

from dual_encoder.console import say
from dual_encoder.data.manifest import MANIFEST
from dual_encoder.embed.sources import DataSet, RawData, Source
from dual_encoder.embed.write import Job, embed
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.inference.encoder import Encoder, load
from dual_encoder.runtime import compilation_cache, heap


def main() -> None:
    """Embeds as the command line says; exit code 2 and one line for a user's mistake."""
    flags = _parser().parse_args()
    exit_on_user_error(lambda: _run(flags), flags.debug)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dual_encoder.embed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="of a run, or the folder of an exported encoder")
    parser.add_argument("--step", type=int, default=-1, help="checkpoint; -1, the default, is the newest")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a built data set, or a folder of raw images")
    parser.add_argument("--split", default="", help="of a data set; several joined by '+' (default: all)")
    parser.add_argument("--importer", default="geotiff", help="for raw images (default: %(default)s)")
    parser.add_argument("--kind", choices=("pairs", "tiles"), default="",
                        help="of raw images; tiles have labels (default: pairs, or tiles if there are none)")
    parser.add_argument("--sensors", default="", metavar="s1,s2", help="to embed (default: all that the run has)")
    parser.add_argument("--size", type=int, default=0, metavar="PX", help="cut raw images into patches of this size")
    parser.add_argument("--vectors", choices=("projected", "pooled"), default="projected",
                        help="projected (default): both sensors in one space; pooled: features below the heads")
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32", help="int8 has a scale per row")
    parser.add_argument("--rows", type=int, default=32768, help="entries per file (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per forward pass (default: %(default)s)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to write")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _run(flags: argparse.Namespace) -> None:
    for name, least in (("rows", 1), ("batch_size", 1), ("size", 0)):
        if getattr(flags, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(flags, name)}; expected at least {least}")
    heap.keep()
    say(compilation_cache.start())
    encoder = load(flags.workdir, flags.step)
    encoder.check_vectors(flags.vectors)
    source = _source(flags, encoder)
    if not len(source):
        raise UserError(f"'{flags.data}' has no images in --split={flags.split or 'all'}; choose another split")
    embed(Job(encoder, flags.workdir, source, flags.vectors, flags.dtype, flags.rows, flags.batch_size,
              shlex.join(["python", "-m", "dual_encoder.embed", *sys.argv[1:]])), flags.out)


def _source(flags: argparse.Namespace, encoder: Encoder) -> Source:
    """Returns the images that the flags name."""
    wanted = flags.sensors.split(",") if flags.sensors else list(encoder.sensors)
    if missing := [name for name in wanted if name not in encoder.sensors]:
        raise UserError(f"--sensors names '{missing[0]}'; the run has {', '.join(encoder.sensors)}")
    sensors = {name: spec for name, spec in encoder.sensors.items() if name in wanted}
    if not flags.data.is_dir():
        raise UserError(f"--data '{flags.data}' is no folder; give a built data set, or a folder of raw images")
    if not (flags.data / MANIFEST).is_file():
        return RawData(flags.data, flags.importer, flags.kind, sensors, flags.size)
    if flags.size:
        raise UserError("--size cuts raw images; the images of a built data set have one size: leave it out")
    return DataSet(flags.data, sensors, flags.split)


if __name__ == "__main__":
    main()
