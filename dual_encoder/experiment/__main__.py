"""Runs an experiment: a grid of initialisations, tasks, fractions of the labels, folds and seeds; ends in a report.

    python -m dual_encoder.experiment --plan=configs/experiment.py:quick --out=runs/quick

A run that was killed goes on when the same command is started again. A plan may grow: more seeds, fractions or
initialisations only add runs. Several machines with one file system may run the command at the same time.

    --jobs=N     N runs side by side
    --list       the runs with their numbers and states; nothing is run
    --beside=CSV results of torchgeo-bench, shown in a table of their own; they enter no mean and no comparison
    --cell=K     run number K alone, as in a SLURM array; the report is left to a command without --cell
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections import Counter

from dual_encoder.command_line.parser import make_parser
from dual_encoder.console import clock, say
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.experiment import beside, page, plan, work
from dual_encoder.experiment.cells import Cell, cells, score
from dual_encoder.experiment.results import collect
from dual_encoder.runtime import compilation_cache, heap, limits, mesh, stop_request

_STOPPED = 75


def main() -> None:
    """Runs what the command line says. A user's mistake gives one line and exit code 2."""
    parser = make_parser("dual_encoder.experiment", __doc__)
    parser.add_argument("--plan", required=True, help="FILE.py or FILE.py:VARIANT, as configs/experiment.py:quick")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of the experiment")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--list", action="store_true", help="list the runs; run nothing")
    parser.add_argument("--cell", type=int, help="run this number of the list alone")
    parser.add_argument("--beside", type=pathlib.Path, action="append", default=[], metavar="CSV",
                        help="results of torchgeo-bench to show in a table of their own; may be given again")
    parser.add_argument("--worker", help=argparse.SUPPRESS)  # 'i/N': the i-th of N processes that --jobs starts
    flags = parser.parse_args()
    exit_on_user_error(lambda: _main(flags), flags.debug)


def _main(flags: argparse.Namespace) -> None:
    out = flags.out.absolute()
    others = beside.read(flags.beside)
    planned = plan.load(flags.plan)
    every = cells(planned)
    if flags.jobs < 1:
        raise UserError(f"--jobs is {flags.jobs}; expected 1 or more")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out '{out}' is a file; give a folder")
    if flags.list:
        for number, cell in enumerate(every):
            say(f"{number}\t{work.outcome(out, cell.name).state}\t{cell.name}")
    elif flags.cell is not None:
        _one(flags.cell, planned, every, out)
    elif flags.worker:
        number, jobs = map(int, flags.worker.split("/"))
        _share_cores(number, jobs)
        _work(planned, every, out, jobs)
    else:
        work.forget_failures(every, out)
        _all(flags, planned, every, out, others)


def _all(flags: argparse.Namespace, planned: plan.Plan, every: list[Cell], out: pathlib.Path,
         others: list[beside.OtherScore]) -> None:
    """Runs all cells, then writes the report."""
    started = time.monotonic()
    say(f"{len(every)} runs, {sum(work.outcome(out, cell.name).state == 'done' for cell in every)} of them done; "
        f"folder '{out}'")
    workers = [subprocess.Popen([sys.executable, "-m", "dual_encoder.experiment", f"--plan={flags.plan}",
                                 f"--out={out}", f"--worker={number}/{flags.jobs}"])
               for number in range(1, flags.jobs)]
    try:
        with _passed_on(workers):
            if flags.jobs > 1:
                _share_cores(0, flags.jobs)
            _work(planned, every, out, flags.jobs)
        if killed := sum(worker.poll() == -signal.SIGKILL for worker in workers):
            say(f"{killed} of {flags.jobs} processes were killed, {limits.why_killed()}; lower --jobs if it happens "
                "again")
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    report = page.write(collect(planned, every, out), out, others)
    failed = sum(work.outcome(out, cell.name).state == "failed" for cell in every)
    say(f"report: {report} ({clock(time.monotonic() - started)})")
    if failed:
        raise UserError(f"{failed} of {len(every)} runs failed; the report names each with its reason: mend them and "
                        "run the same command again")


class _passed_on:
    """Sends SIGTERM to other processes, too, when a signal ends this one while a block runs; Ctrl-C reaches them alone.
    """

    def __init__(self, workers: list[subprocess.Popen]):
        self._workers = workers

    def __enter__(self) -> None:
        heard = [number for number in stop_request.SIGNALS if number != signal.SIGINT
                 and signal.getsignal(number) is not signal.SIG_IGN]
        self._old = {number: signal.signal(number, self._stop) for number in heard}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        for worker in self._workers:
            worker.terminate()
        sys.exit(_STOPPED)


def _one(number: int, planned: plan.Plan, every: list[Cell], out: pathlib.Path) -> None:
    """Runs one cell whose needs are done."""
    if not 0 <= number < len(every):
        raise UserError(f"--cell is {number}; expected 0 to {len(every) - 1}, as --list numbers them")
    cell = every[number]
    for need in cell.needs:
        if work.outcome(out, need).state != "done":
            at = next(at for at, other in enumerate(every) if other.name == need)
            raise UserError(f"cell {number} needs cell {at}, '{need}', which is not done; run --cell={at} first")
    work.forget_failures([cell], out)
    _work(planned, [cell], out)
    found = work.outcome(out, cell.name)
    if found.state == "failed":
        raise UserError(f"'{cell.name}' failed: {found.message}")


def _work(planned: plan.Plan, chosen: list[Cell], out: pathlib.Path, jobs: int = 1) -> None:
    """Runs cells in this process and prints a line for each."""
    heap.keep()
    compilation_cache.start()
    seconds: dict[tuple[str, str], list[float]] = {}  # of the cells that this process has run, by their kind

    def ended(cell: Cell, outcome: work.Outcome) -> None:
        seconds.setdefault(_kind(cell), []).append(outcome.seconds)
        left = [other for other in chosen if not work.has_ended(out, other.name)]
        what = outcome.message if outcome.state == "failed" else _score(cell, out)
        say(f"{len(chosen) - len(left)}/{len(chosen)} {cell.name}: {outcome.state}, {what} ({outcome.seconds:.1f} s)  "
            f"ETA {_eta(left, seconds, jobs)}")

    work.work(planned, chosen, out, mesh.make(), ended)


def _kind(cell: Cell) -> tuple[str, str]:
    return cell.kind, cell.task.name if cell.task else ""


def _eta(left: list[Cell], seconds: dict[tuple[str, str], list[float]], jobs: int) -> str:
    """Returns the time that the cells which are left will take, from the means of cells of the same kind."""
    kinds = Counter(map(_kind, left))
    known = sum(count * sum(seconds[kind]) / len(seconds[kind]) for kind, count in kinds.items() if kind in seconds)
    return ("" if all(kind in seconds for kind in kinds) else "more than ") + clock(known / jobs)


def _score(cell: Cell, out: pathlib.Path) -> str:
    if cell.task is None:
        return "pre-trained"
    value = score(out / cell.name, cell.task.metric)
    return f"{cell.task.metric} {'–' if value is None else f'{value:.3f}'}"


def _share_cores(number: int, count: int) -> None:
    """Keeps this process on its share of the cores: XLA's threads would otherwise wait for those of the others."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[number::count] if count <= len(cores) else [cores[number % len(cores)]]
        os.sched_setaffinity(0, mine)


if __name__ == "__main__":
    main()
