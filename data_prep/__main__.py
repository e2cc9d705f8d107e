"""python -m data_prep {sample,describe,build,inspect,stats,verify,overlap}: from raw products to training data."""

import argparse
import itertools
import json
import math
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable

from etils import epath

from data_prep import importers
from dual_encoder.command_line.parser import VERSION, make_parser
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.runtime import cores


def main(arguments: list[str] | None = None) -> None:
    """Runs one command; a user's mistake ends with one line and exit code 2, damaged data with exit code 1."""
    options = _parser().parse_args(arguments)
    exit_on_user_error(lambda: options.command(options), options.debug)


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    common.add_argument("--version", action="version", version=VERSION)
    parser = make_parser("data_prep", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, text):
        sub = commands.add_parser(name, help=text, description=text, parents=[common])
        sub.set_defaults(command=run)
        return sub

    sub = command("sample", _sample, "get 32 real BigEarthNet v2 pairs from two wheels on PyPI")
    sub.add_argument("--out", type=pathlib.Path, required=True, help="folder for the raw sample")
    sub.add_argument("--wheel", type=pathlib.Path, action="append", default=[], metavar="FILE",
                     help="a configilm 0.6.3 or 0.7.1 wheel at hand, instead of a download; may be repeated")

    sub.add_argument("--scene", type=pathlib.Path, metavar="FOLDER",
                     help="also put neighbouring test patches together to a radar scene there, to make a map of")

    sub = command("describe", _describe, "look at a folder of own GeoTIFFs and write its geotiff.json")
    sub.add_argument("folder", type=pathlib.Path, help="folder of the images; geotiff.json is written there")
    sub.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                     help="a value that you know, e.g. s1.product=grd; may be repeated")
    sub.add_argument("--anew", action="store_true", help="forget the values of a geotiff.json that lies there")

    sub = command("build", _build, "turn a raw data set into TFRecord shards, index and manifest")
    _add_build_options(sub)

    sub = command("inspect", _inspect, "print the content of a data set and draw a contact sheet")
    sub.add_argument("folder", type=epath.Path)
    sub.add_argument("--split", default="", help="one split (default: all)")
    sub.add_argument("--records", type=int, default=512, help="read at most so many records")
    sub.add_argument("--out", type=pathlib.Path, help="the contact sheet (default: inspect.png in the folder)")

    sub = command("stats", _stats, "compute per-band mean and std for --config.data.statistics")
    sub.add_argument("folder", type=epath.Path)
    sub.add_argument("--split", default="train")
    sub.add_argument("--out", type=pathlib.Path, required=True, help="the JSON file")

    _add_checks(command)
    return parser


def _add_build_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--importer", required=True, help=f"one of: {', '.join(importers.names())}")
    sub.add_argument("--raw", type=pathlib.Path, required=True, help="folder of the raw data")
    sub.add_argument("--data-dir", required=True, help="folder of all built data sets")
    sub.add_argument("--kind", choices=("pairs", "tiles"), help="default: pairs, or tiles with --labels")
    sub.add_argument("--labels", default="", metavar="NAME",
                     help="makes tiles; water_weak: label pairs by S2 indices; others are labels of the importer, such "
                          "as land_cover of bigearthnet")
    sub.add_argument("--split-by", choices=("source", "area"), default="source",
                     help="source: the authors' splits; area: by hash of blocks of --block-degrees, 80/10/10")
    sub.add_argument("--block-degrees", type=float, metavar="D",
                     help="side of such a block (default: 1, or less if a split would get less than two places)")
    sub.add_argument("--sensors", default="", metavar="s1,s2",
                     help="images to store, as s1, s2 or by sensor, e.g. s1,s2_l1c or, of own files, some bands, e.g. "
                          "s1,s2_l2a:B02+B03+B04 (default: the importer's)")
    sub.add_argument("--size", type=int, default=0, metavar="PX", help="cut raw images into patches of this size")
    sub.add_argument("--max-gap-days", type=float, default=math.inf, metavar="D", help="most days between S1 and S2")
    sub.add_argument("--min-valid", type=float, default=0.0, metavar="SHARE",
                     help="least share of pixels with data in each image, 0..1")
    sub.add_argument("--max-cloud", type=float, default=100.0, metavar="PERCENT", help="most cloud over the S2 image")
    sub.add_argument("--keep-unlabelled", action="store_true", help="take tiles without a labelled pixel, too")
    sub.add_argument("--exclude", action="append", default=[], metavar="FOLDER",
                     help="leave out records that overlap this data set (see `overlap`); may be repeated")
    sub.add_argument("--workers", type=int, default=cores.usable(), metavar="N",
                     help="processes; the result is the same for any number (default: all it may use)")
    sub.add_argument("--max-rejected", type=int, default=-1, metavar="N",
                     help="more unusable records stop the build (default: 10, or 1 %% of the entries if that is more)")
    sub.add_argument("--accept", default="", metavar="RULES",
                     help="build although many images break these rules of plausibility, joined by ','")
    sub.add_argument("--num-shards", type=int, default=0, metavar="N", help="shards per split (default: as TFDS does)")
    sub.add_argument("--beam", metavar="OPTIONS",
                     help="write with an Apache Beam pipeline; its options joined by ',', e.g. runner=DirectRunner")
    sub.add_argument("--name", default="", help="name of the config (default: made of the options)")


def _add_checks(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the commands that check finished data sets."""
    sub = command("verify", _verify, "check every record and shard; exit code 1 if something is damaged")
    sub.add_argument("folder", type=epath.Path)
    sub.add_argument("--workers", type=int, default=cores.usable(), metavar="N",
                     help="processes (default: all it may use)")
    sub.add_argument("--rewrite", action="store_true", help="write manifest and index again from sound shards")

    sub = command("overlap", _overlap, "find records that another data set, or another split, holds as well")
    sub.add_argument("folder", type=epath.Path, help="a data set, usually the one to train on")
    sub.add_argument("other", type=epath.Path, nargs="?",
                     help="the data set to evaluate on (default: the splits of the first are compared)")
    sub.add_argument("--out", type=pathlib.Path, metavar="FILE",
                     help="the pairs, as .jsonl (default: overlap.jsonl in the data set to evaluate on)")
    sub.add_argument("--workers", type=int, default=cores.usable(), metavar="N",
                     help="processes (default: all it may use)")


def _sample(options: argparse.Namespace) -> None:
    from data_prep import sample, sample_scene

    if sample.fetch(options.out, options.wheel):
        print(f"sample is in {options.out}; licences in {options.out / 'ATTRIBUTION.md'}")
    else:
        print(f"sample is complete in {options.out} already")
    if options.scene:
        print(f"scene: {sample_scene.write(options.out, options.scene)}")
    print(f"next: python -m data_prep build --importer=bigearthnet --raw={options.out} --data_dir=DIR")


def _describe(options: argparse.Namespace) -> None:
    from data_prep.describe import description

    if not options.folder.is_dir():
        raise UserError(f"folder '{options.folder}' is missing; give the folder of your images")
    for line in description.describe(options.folder, options.set, options.anew):
        print(line, flush=True)


def _build(options: argparse.Namespace) -> None:
    if str(options.raw).startswith(("gs:/", "s3:/", "az:/")):
        raise UserError(f"--raw={options.raw} is a bucket; mount it (gcsfuse, s3fs) or copy the data to a folder")
    if not options.raw.is_dir():
        importers.load(options.importer)
        what = f"a file; name its folder '{options.raw.parent}'" if options.raw.is_file() else "missing"
        raise UserError(f"raw folder '{options.raw}' is {what}; --raw must name the folder of the raw data")
    if options.labels and options.kind == "pairs":
        raise UserError(f"--labels={options.labels} with --kind=pairs: labels make tiles; drop one of the two")
    if "," in os.path.abspath(options.data_dir):
        raise UserError(f"the path '{os.path.abspath(options.data_dir)}' of --data_dir has a comma, which joins "
                        "several data sets in a configuration; give a folder without one")
    if "://" in options.data_dir:
        raise UserError(f"--data_dir={options.data_dir} is a bucket; build in a folder, then copy the finished one to "
                        "the bucket, where training can read it")
    if options.workers < 1 or options.num_shards < 0:
        raise UserError(f"--workers={options.workers} --num-shards={options.num_shards} must be positive")
    accepted = tuple(filter(None, options.accept.split(",")))
    kind = "tiles" if options.labels else options.kind or "pairs"
    import absl.logging

    from data_prep.build import exclusion
    from data_prep.build.builder import How
    from data_prep.build.config import make_config
    from data_prep.build.selection import Filters
    from dual_encoder.data.manifest import load_info
    from dual_encoder.imagery import plausibility

    plausibility.check_names(accepted)
    absl.logging.set_verbosity(absl.logging.ERROR)
    exclusion.check(options.exclude)
    config = make_config(
        options.importer, kind, raw=options.raw, labels=options.labels, split_by=options.split_by, size=options.size,
        block_degrees=options.block_degrees, name=options.name, sensors=tuple(filter(None, options.sensors.split(","))),
        filters=Filters(options.max_gap_days, options.min_valid, options.max_cloud, options.keep_unlabelled),
        exclude=options.exclude)
    if kind == "pairs":
        from data_prep.s1s2_pairs.s1s2_pairs_dataset_builder import Builder
    else:
        from data_prep.s1s2_tiles.s1s2_tiles_dataset_builder import Builder
    builder = Builder.of(config, options.data_dir)
    there = builder.is_prepared()
    start = time.monotonic()
    builder.build(options.raw, How(
        workers=options.workers, shards=options.num_shards, max_rejected=options.max_rejected, accepted=accepted,
        beam=None if options.beam is None else [f"--{option}" for option in options.beam.split(",")]))
    info = load_info(builder.data_path)
    counts = {split: sum(entry["records"] for entry in entries) for split, entries in info.shards.items()}
    summary = f"{sum(counts.values())} records ({', '.join(f'{split} {count}' for split, count in counts.items())})"
    if there:
        print(f"already built: {summary}; to build anew delete the folder or give another --name")
    else:
        print(f"built {summary} in {time.monotonic() - start:.1f} s")
    for feature, spec in info.sensors.items():
        if ":" in spec.name:
            print(f"{feature}: {len(spec.bands)} of the bands of {spec.name.partition(':')[0]}: {' '.join(spec.bands)}")
    print(f"data: {builder.data_path}")
    print(f"check it: python -m data_prep inspect {builder.data_path}")
    print(f"next: {_training(info, pathlib.Path(builder.data_path))}")


def _training(info: DatasetInfo, folder: pathlib.Path) -> str:
    """Returns the command that trains on a data set, into a new folder."""
    file = "pretrain" if info.label is None else "finetune" if info.label.per_pixel else "classify"
    images = [name for name in ("s1", "s2") if name in info.tensors]
    inputs = "" if info.label is None and len(images) == 2 else f" --config.inputs={'+'.join(images)}"
    base = pathlib.Path("runs", f"{folder.parent.name}_{file}")
    workdir = next(path for path in itertools.chain([base], (base.with_name(f"{base.name}_{n}") for n in
                                                              itertools.count(2))) if not path.exists())
    return (f"python main.py --config=configs/{file}.py:small --config.data.dir={shlex.quote(str(folder))}{inputs} "
            f"--workdir={workdir}")


def _inspect(options: argparse.Namespace) -> None:
    from data_prep.look import inspection

    if options.records < 1:
        raise UserError(f"--records={options.records} must be at least 1")
    out = options.out or options.folder / "inspect.png"
    if not os.access(out.parent, os.W_OK):  # before the reading
        raise UserError(f"cannot write '{out}'; name a file in a folder that exists and is writable with --out")
    for line in inspection.inspect(options.folder, options.split, options.records, out):
        print(line)


def _stats(options: argparse.Namespace) -> None:
    from data_prep.look import statistics
    from dual_encoder.storage import atomic

    if not options.out.parent.is_dir():  # before the long computation
        raise UserError(f"folder '{options.out.parent}' of --out does not exist; make it first")
    result = statistics.compute(options.folder, options.split)
    atomic.write(options.out, (json.dumps(result, indent=1) + "\n").encode())
    for feature, spec in result["sensors"].items():
        print(f"{feature} ({spec['name']}), stored integers")
        for band, mean, std in zip(spec["bands"], spec["mean"], spec["std"], strict=True):
            print(f"  {band:6s} mean {mean:10.2f}  std {std:9.2f}")
    print(f"{result['provenance']['records']} records of split {options.split}")
    print(f"next: give --config.data.statistics={options.out} to the training")


def _verify(options: argparse.Namespace) -> None:
    from data_prep.build import finish, verify
    from dual_encoder.data import digests
    from dual_encoder.data.manifest import load_info

    if options.rewrite:
        finish.write(options.folder)
        print(f"rewrote manifest, index and digests of {options.folder}")
    damages = 0
    for damage in verify.verify(options.folder, options.workers):
        damages += 1
        print(f"damaged: {damage}")
    if damages:
        print(f"{damages} damages in {options.folder}; restore the files, or delete the folder and build it again")
        sys.exit(1)
    if digests.load(options.folder) is None:
        print(f"no digests of the small files ({digests.SUMS}); write with --rewrite")
    info = load_info(options.folder)
    entries = [entry for shards in info.shards.values() for entry in shards]
    print(f"sound: {sum(entry['records'] for entry in entries)} records in {len(entries)} shards, fingerprint "
          f"{info.fingerprint[:16]}")


def _overlap(options: argparse.Namespace) -> None:
    from data_prep.look import overlap

    if options.workers < 1:
        raise UserError(f"--workers={options.workers} must be at least 1")
    out = options.out or (options.other or options.folder) / "overlap.jsonl"
    for line in overlap.audit(options.folder, options.other, pathlib.Path(out), options.workers):
        print(line, flush=True)


if __name__ == "__main__":
    main()
