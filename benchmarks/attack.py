"""Attacks everything that reads files, by the thousand, and prints the table of docs/reliability.md.

    python -m benchmarks.attack                        all parts, some ten minutes on 2 cores
    python -m benchmarks.attack --raw=100 --flips=0    2,000 damaged raw files, no bit flips
    python -m benchmarks.attack --show="npz 3"         one trial as a real command, and the folder that it read

Raw files: damage of DAMAGES and lies of `hostile.py` in a small raw data set of every layout, each trial a whole
`python -m data_prep build`; then the bombs. Own files: bit flips in a data set against `verify` and against reading, in
a workdir against export and report. Some trials are run once more as commands of their own, because a fork might hide
what a start shows. Exit code 1 if a trial ends in a fault: silent, traceback, killed, hung, memory, outside.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.fuzz.__main__ import main as attack
from tests.fuzz.raw_attack import RawAttack
from tests.fuzz.report import Counts
from tests.fuzz.trial import Ended

ROOT = pathlib.Path(__file__).parent.parent


def main() -> None:
    """Runs the attack that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--raw", type=int, default=150, help="damaged files of each of the 25 layouts (default 150)")
    parser.add_argument("--flips", type=int, default=1000,
                        help="bit flips of a data set (1000); a fifth of them over a workdir")
    parser.add_argument("--commands", type=int, default=2, help="trials of each layout that are run as commands, too")
    parser.add_argument("--show", metavar="'LAYOUT NUMBER'", default="", help="run one trial as a command")
    options = parser.parse_args()
    if options.show:
        sys.exit(_show(options.show))
    start, counts = time.monotonic(), Counts()
    parts = {"raw": options.raw, "bombs": min(options.raw, 1), "data_set": options.flips, "workdir": options.flips // 5}
    for part, last in parts.items():
        if last:
            _note(f"{part}: {last} trials each, after {time.monotonic() - start:.0f} s")
            counts.merge(_part(part, last))
    if options.commands:
        _note(f"commands, after {time.monotonic() - start:.0f} s")
        counts.merge(_commands(options.commands))
    print(*counts.faults, "", *counts.table(), "", f"{time.monotonic() - start:.0f} s", sep="\n")
    sys.exit(bool(counts.faults))


def _part(part: str, last: int) -> Counts:
    flips = ("flipped",)
    if part != "workdir":
        return attack(part, 0, last, flips if part == "data_set" else ())
    with tempfile.TemporaryDirectory() as name:
        _make_run(pathlib.Path(name))
        counts = attack(f"workdir={name}/run", 0, last, flips)
        counts.merge(attack(f"export={name}/export", 0, last // 5, flips))
        return counts


def _make_run(folder: pathlib.Path) -> None:
    """Trains two steps on a small data set, with a checkpoint after each, and exports an encoder, as commands."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    script = ("import pathlib, sys; from tests.fuzz import own_attack; "
              "print(own_attack.data_set(pathlib.Path(sys.argv[1]), 'npz'), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", script, folder / "set"], cwd=ROOT, env=environment, text=True,
                          capture_output=True, check=True)
    data = done.stderr.strip().splitlines()[-1]
    changes = {"data.dir": data, "data.split": "train", "encoder.width": 8, "batch_size": 2, "augment.crop": 16,
               "schedule.steps": 2, "schedule.checkpoint_every": 1, "schedule.log_every": 1}
    subprocess.run([sys.executable, "main.py", "--config=configs/pretrain.py:smoke", f"--workdir={folder / 'run'}",
                    *(f"--config.{key}={value}" for key, value in changes.items())],
                   cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, "-m", "dual_encoder.export", f"--workdir={folder / 'run'}", "--sensor=s2",
                    f"--out={folder / 'export'}"], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)


def _commands(each: int) -> Counts:
    """Runs the first trials of each layout as commands."""
    counts = Counts()
    with tempfile.TemporaryDirectory() as name:
        attacked = RawAttack(pathlib.Path(name))
        for layout in attacked.sets:
            for number in range(each):
                trial = attacked.describe(layout, number)
                place = pathlib.Path(name, "commands", f"{number}-{layout.replace(' ', '_')}")
                done = _build(attacked, layout, number, place)
                fault = Ended(done.returncode, done.stdout, done.stderr, 0, ()).fault
                counts.add([(_Command("as commands", number, f"{layout}: {trial.file}", trial.mutation),
                             fault or ("one line" if done.returncode else "quarantined"), 0)])
    return counts


def _build(attacked: RawAttack, layout: str, number: int, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    (folder / "raw").mkdir(parents=True)
    attacked.write(attacked.describe(layout, number), folder / "raw")
    return subprocess.run([sys.executable, "-m", "data_prep", "build", f"--raw={folder / 'raw'}",
                           f"--data_dir={folder / 'out'}",
                           *attacked.options(layout)], cwd=ROOT, text=True, capture_output=True, timeout=300)


class _Command:
    """A trial that was run as a command."""

    def __init__(self, name: str, number: int, file: str, mutation: str):
        self.name, self.number, self.file, self.mutation = name, number, file, mutation


def _show(text: str) -> int:
    layout, number = text.rsplit(" ", 1)
    folder = pathlib.Path(tempfile.mkdtemp())
    attacked = RawAttack(folder / "sound", (layout,))
    print(attacked.describe(layout, int(number)))
    done = _build(attacked, layout, int(number), folder)
    print(f"raw folder: {folder / 'raw'}", done.stdout, done.stderr, f"exit code {done.returncode}", sep="\n")
    return done.returncode


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
