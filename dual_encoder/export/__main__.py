"""Writes one encoder of a run in a format that other tools load.

    python -m dual_encoder.export --workdir=runs/pretrain --sensor=s2 --out=exported/s2
    python -m dual_encoder.export --check=exported/s2      compares the files of an export with their digests

A new format is a file of its own with a function like `timm.export`, and a line in `FORMATS`.
"""

import argparse

from dual_encoder.errors import exit_on_user_error
from dual_encoder.export import folder, timm
from dual_encoder.workdir.checkpoint import load_model

FORMATS = {"timm": timm.export}


def main() -> None:
    """Exports as the command line says; exit code 2 and one line for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m dual_encoder.export", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", help="folder of the training run")
    parser.add_argument("--sensor", help="which encoder: s1 or s2")
    parser.add_argument("--out", help="folder to write; an earlier export in it is replaced")
    parser.add_argument("--format", choices=sorted(FORMATS), default="timm", help="default: %(default)s")
    parser.add_argument("--step", type=int, help="checkpoint to take; the newest by default")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--check", metavar="FOLDER", help="check an export instead of writing one")
    flags = parser.parse_args()
    if missing := [f"--{name}" for name in ("workdir", "sensor", "out") if not (flags.check or getattr(flags, name))]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")

    def run() -> None:
        if flags.check:
            print(f"sound: {', '.join(folder.check(flags.check))}")
            return
        exported = FORMATS[flags.format](load_model(flags.workdir, flags.step), flags.sensor, flags.out)
        for path in exported.paths:
            print(path)
        if exported.note:
            print(f"note: {exported.note}")

    exit_on_user_error(run, flags.debug)


if __name__ == "__main__":
    main()
