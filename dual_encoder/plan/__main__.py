"""Shows whether a configuration fits a machine, and how fast a step can be there at best.

    python -m dual_encoder.plan --config=configs/pretrain.py --topology=v5e:16x16 --size=264
    python -m dual_encoder.plan --config=configs/pretrain.py --topology=h100:8 --config.data.dir=DIR
    python -m dual_encoder.plan --config=configs/pretrain.py:smoke --topology=cpu:8 --size=120

The planner compiles the real step and runs nothing. TPU topologies need libtpu (pip install -e '.[tpu-plan]'), GPU
topologies need JAX's CUDA compiler ([cuda]); neither needs the hardware or the network. --config.data.dir gives the
shapes of the images, or --size and --sensors do. Compiling for hundreds of chips takes minutes. Exit codes: 0 the
configuration fits; 1 it does not fit, and the output names what to change; 2 a mistake in the command or a failure of
the compiler, which one line on stderr explains.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from absl import flags
from ml_collections import config_flags

from dual_encoder.command_line.config_file import parse_flags
from dual_encoder.command_line.parser import make_parser
from dual_encoder.config import parse, to_dict
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes, shapes
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.plan.chips import GIB, Chip, topology
from dual_encoder.plan.remedies import find_remedies, least_batch, outcome
from dual_encoder.plan.search import COMPILES, largest_batch
from dual_encoder.plan.step_program import StepProgram, TooLarge, compile_program
from dual_encoder.plan.table import figures, lines
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.storage import atomic, paths
from dual_encoder.tasks.build import AnyConfig, AnyTask, EvaluateConfig, build_without_weights
from dual_encoder.tasks.classify import ClassifyConfig
from dual_encoder.tasks.probe import ProbeConfig
from dual_encoder.tasks.segment import SegmentConfig

_NO_DATA = "no data set"
_NUMBERS = {**dict.fromkeys(("size", "classes", "pairs"), "0 or more"), "memory": "GiB, 0 or more"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the plan of a configuration; the module's docstring describes the command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or {"--help", "-h"} & set(arguments):
        _parser().print_help()
        return
    exit_on_user_error(lambda: _run(arguments), debug="--debug" in arguments)


def _run(arguments: list[str]) -> None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    for name, expected in _NUMBERS.items():
        if not 0 <= (number := getattr(options, name)) < math.inf:
            parser.error(f"argument --{name}: is {number}, expected {expected}")
    config, records = _read(options, rest)
    jax.config.update("jax_platforms", "cpu")  # does not start an accelerator of this machine
    devices, chip = topology(options.topology)
    if chip:
        jax.config.update("jax_enable_compilation_cache", False)  # JAX cannot read such programs back
    plan = _Plan(config, records, devices, chip, options)
    kind = chip.kind if chip else "simulated CPU device"
    images = ", ".join(f"{name} {info.dtype}{list(info.shape)}" for name, info in records.info.tensors.items())
    print(f"{options.topology}: {len(devices)} x {kind}; global batch {config.batch_size:,}, "
          f"{config.batch_size // len(devices)} per device; {images}", flush=True)
    if not plan.make(options.search):
        sys.exit(1)


class _Plan:
    """The plan of one configuration: the programs compiled so far, and the document for --json."""

    def __init__(self, config: AnyTask, records: Records | Shapes,
                 devices: Sequence[jax.Device], chip: Chip | None, options: argparse.Namespace):
        self._config, self._info, self._chip, self._file = config, records.info, chip, options.json
        self._devices, self._mesh = len(devices), mesh_lib.make(devices)
        self._limit = int(options.memory * GIB) or (chip.usable if chip else 0)
        self._pairs = options.pairs or (len(records) if isinstance(records, Records) else 0)
        self._task = build_without_weights(config, records, self._mesh)
        # batch -> its program, or the compiler's reason why there is none
        self._answers: dict[int, StepProgram | str] = {}
        self._plans: dict[int, dict[str, Any]] = {}
        self._document: dict[str, Any] = {
            "topology": options.topology, "devices": self._devices, "chip": dataclasses.asdict(chip) if chip else None,
            "memory_limit": self._limit or None, "config": to_dict(config), "plans": self._plans}

    def make(self, search: bool) -> bool:
        """Prints and writes the plan, also of the largest batch if `search`; returns whether the configuration fits."""
        config, size = self._config, self._config.batch_size
        fitting = self._fits(size)
        low, high = (size, None) if fitting else (0, size)
        self._show(size)
        self._write(fitting, low, high)  # now, because the search takes long and may fail
        if search and self._limit:
            low, high, failure = largest_batch(self._fits, least_batch(config, self._devices), size, fitting,
                                               self._guess)
            self._show(low)
            print(outcome(config, low, high, self._devices, failure))
            self._write(fitting, low, high)
        if not fitting:
            assert high is not None  # at most the configured batch, which does not fit
            remedies = find_remedies(config, low, high, self._devices)
            print(f"does not fit: {self._reason()}\nchange one of: {'; '.join(remedies)}", flush=True)
        return fitting

    def _fits(self, batch_size: int) -> bool:
        """Compiles the step at a global batch; returns whether it fits into the memory."""
        changed = dataclasses.replace(self._config, batch_size=batch_size)
        with _clock(f"compiling for {self._devices} devices, global batch {batch_size:,}"):
            try:
                program = compile_program(changed, self._task, self._info, self._mesh, self._steps(batch_size) or 1)
            except TooLarge as refusal:
                self._answers[batch_size] = str(refusal)
                return False
        self._answers[batch_size] = program
        return not self._limit or program.memory.total <= self._limit

    def _show(self, batch_size: int) -> None:
        """Prints the figures of a global batch once, if there is a program for it."""
        answer = self._answers.get(batch_size)
        if isinstance(answer, StepProgram) and batch_size not in self._plans:
            one = figures(answer, self._chip, batch_size, self._steps(batch_size))
            self._plans[batch_size] = one
            print(f"\n-- global batch {batch_size:,}, compiled in {answer.compile_seconds:.0f} s\n")
            print("\n".join(lines(one, self._chip, self._limit)), flush=True)

    def _write(self, fitting: bool, low: int, high: int | None) -> None:
        """Writes the document, if --json names a file."""
        self._document.update(fits=fitting, largest_batch=low or None, smallest_too_large=high)
        if self._file:
            atomic.write(self._file, json.dumps(self._document, indent=1).encode())

    def _reason(self) -> str:
        """Returns why the configured batch does not fit."""
        answer = self._answers[self._config.batch_size]
        if isinstance(answer, str):
            return answer
        return f"{answer.memory.total / GIB:.2f} of {self._limit / GIB:.2f} GiB"

    def _steps(self, batch_size: int) -> int:
        """Returns the length of the schedule in steps; 0 if the number of pairs is not known."""
        return self._config.schedule.steps or self._config.schedule.epochs * (self._pairs // batch_size)

    def _guess(self, batch_size: int) -> int:
        """Returns the batch that fills the memory if all but state and program grows with the batch; 0 if unknown."""
        answer = self._answers[batch_size]
        if isinstance(answer, str):
            return 0
        fixed = answer.state + answer.memory.code
        return int(batch_size * max(self._limit - fixed, 0) / max(answer.memory.total - fixed, 1))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("dual_encoder.plan", __doc__)
    parser.add_argument("--topology", required=True, help="cpu:8, v5e:16x16, v4:4x4x4, h100:8, h100:2x8, ...")
    parser.add_argument("--size", type=int, default=0, metavar="PX", help="side of the images; no data set is read")
    parser.add_argument("--sensors", default="s1_grd,s2_l2a", help="with --size: sensor kinds (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=0, metavar="N", help="with --size: classes of the labels")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="records per epoch (default: the data set's)")
    parser.add_argument("--memory", type=float, default=0.0, metavar="GIB",
                        help="usable memory of a device (default: TPU: the compiler's limit; GPU: 75 %%, like JAX; "
                             "cpu:N: no limit)")
    parser.add_argument("--search", action=argparse.BooleanOptionalAction, default=True,
                        help=f"look for the largest batch that fits, with up to {COMPILES} more compilations")
    parser.add_argument("--json", type=paths.local, metavar="FILE", help="also write the figures to a file")
    return parser


def _read(options: argparse.Namespace, arguments: list[str]) -> tuple[AnyTask, Records | Shapes]:
    """Returns the configuration, and the records of its data set, or stand-ins with the shapes that options give."""
    flag_values = flags.FlagValues()
    command = ["plan", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=flag_values, sys_argv=command)
    parse_flags(command, flag_values)
    values = flag_values.config.to_dict()
    if options.size and "data" in values:
        values["data"]["dir"] = values["data"]["dir"] or _NO_DATA
    elif "data" in values and not values["data"]["dir"]:
        raise UserError("config.data.dir is ''; set it, or give the side of the images, such as --size=264")
    config: AnyConfig = parse(AnyConfig, values)
    if isinstance(config, EvaluateConfig | ProbeConfig):
        raise UserError(f"config.task is '{config.task}'; plans are for pre-training and fine-tuning")
    if options.size:
        kind = "image_classes" if isinstance(config, ClassifyConfig) else "pixel_classes"
        two_dates = isinstance(config, SegmentConfig) and config.change != "none"
        return config, shapes(options.size, options.sensors.split(","), options.classes, kind, two_dates)
    return config, Records(config.data.dir, config.data.split, config.features, weights=config.data.weights)


@contextlib.contextmanager
def _clock(text: str) -> Iterator[None]:
    """Shows `text` on stderr while the block runs, with the time since its start."""
    began = time.perf_counter()
    columns = (rich.progress.TextColumn("{task.description}"), rich.progress.TimeElapsedColumn())
    if not sys.stderr.isatty():
        print(f"{text} ...", file=sys.stderr, flush=True)
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), transient=True,
                                disable=not sys.stderr.isatty()) as bar:
        bar.add_task(text, total=None)
        yield
    print(f"{text}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
