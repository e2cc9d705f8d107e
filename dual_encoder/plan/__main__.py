"""Does a configuration fit a machine, and how fast can it be there at best? Compiles the real step, runs nothing.

    python -m dual_encoder.plan --config=configs/pretrain.py --topology=v5e:16x16 --size=264
    python -m dual_encoder.plan --config=configs/pretrain.py --topology=h100:8 --config.data.dir=DIR
    python -m dual_encoder.plan --config=configs/pretrain.py:smoke --topology=cpu:8 --size=120

TPU topologies need libtpu (pip install -e '.[tpu-plan]'), GPU topologies JAX's CUDA compiler ([cuda]); neither
needs the hardware or the network. The images are those of --config.data.dir, or of --size and --sensors. Compiling for
hundreds of chips takes minutes. Exit codes: 0 it fits, 1 it does not (what to change is printed), 2 a mistake, or a
compiler that fails, which one line on stderr explains.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import jax
import rich.console
import rich.progress
from absl import flags
from ml_collections import config_flags

from dual_encoder.command_line import parse_flags
from dual_encoder.config import parse, to_dict
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes, shapes
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.plan.chips import GIB, topology
from dual_encoder.plan.remedies import find_remedies, least_batch, outcome
from dual_encoder.plan.search import COMPILES, largest_batch
from dual_encoder.plan.step_program import StepProgram, TooLarge, compile_program
from dual_encoder.plan.table import figures, lines
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.storage import atomic
from dual_encoder.tasks.build import AnyConfig, AnyTask, EvaluateConfig, build_without_weights

_NO_DATA = "no data set"
_NUMBERS = {**dict.fromkeys(("size", "classes", "pairs"), "0 or more"), "memory": "GiB, 0 or more"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the plan of a configuration; see the module."""
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
    jax.config.update("jax_platforms", "cpu")  # leaves an accelerator of this machine alone
    devices, chip = topology(options.topology)
    if chip:
        jax.config.update("jax_enable_compilation_cache", False)  # JAX cannot read such programs back
    mesh = mesh_lib.make(devices)
    limit = int(options.memory * GIB) or (chip.usable if chip else 0)
    pairs = options.pairs or (len(records) if isinstance(records, Records) else 0)
    task = build_without_weights(config, records, mesh)
    answers: dict[int, StepProgram | str] = {}  # batch -> its program, or the compiler's reason why there is none
    plan: dict[str, Any] = {"topology": options.topology, "devices": len(devices),
                            "chip": dataclasses.asdict(chip) if chip else None, "memory_limit": limit or None,
                            "config": to_dict(config), "plans": {}}

    def fits(batch_size: int) -> bool:
        changed = dataclasses.replace(config, batch_size=batch_size)
        with _clock(f"compiling for {len(devices)} devices, global batch {batch_size:,}"):
            try:
                program = compile_program(changed, task, records.info, mesh, _steps(config, batch_size, pairs) or 1)
            except TooLarge as refusal:
                answers[batch_size] = str(refusal)
                return False
        answers[batch_size] = program
        return not limit or program.memory.total <= limit

    def show(batch_size: int) -> None:
        if isinstance(answer := answers.get(batch_size), StepProgram) and batch_size not in plan["plans"]:
            plan["plans"][batch_size] = one = figures(answer, chip, batch_size, _steps(config, batch_size, pairs))
            print(f"\n-- global batch {batch_size:,}, compiled in {answer.compile_seconds:.0f} s\n")
            print("\n".join(lines(one, chip, limit)), flush=True)

    def keep(low: int, high: int | None) -> None:
        plan.update(fits=fitting, largest_batch=low or None, smallest_too_large=high)
        if options.json:
            atomic.write(options.json, json.dumps(plan, indent=1).encode())

    kind = chip.kind if chip else "simulated CPU device"
    images = ", ".join(f"{name} {info.dtype}{list(info.shape)}" for name, info in records.info.tensors.items())
    print(f"{options.topology}: {len(devices)} x {kind}; global batch {config.batch_size:,}, "
          f"{config.batch_size // len(devices)} per device; {images}", flush=True)
    fitting = fits(config.batch_size)
    low, high = (config.batch_size, None) if fitting else (0, config.batch_size)
    show(config.batch_size)
    keep(low, high)  # the search takes long, and may fail
    if options.search and limit:
        low, high, failure = largest_batch(fits, least_batch(config, len(devices)), config.batch_size, fitting,
                                           lambda batch_size: _guess(answers[batch_size], batch_size, limit))
        show(low)
        print(outcome(config, low, high, len(devices), failure))
        keep(low, high)
    if not fitting:
        reason = answers[config.batch_size]
        reason = reason if isinstance(reason, str) else f"{reason.memory.total / GIB:.2f} of {limit / GIB:.2f} GiB"
        remedies = find_remedies(config, low, high or config.batch_size, len(devices))
        print(f"does not fit: {reason}\nchange one of: {'; '.join(remedies)}", flush=True)
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m dual_encoder.plan", description=__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", required=True, help="cpu:8, v5e:16x16, v4:4x4x4, h100:8, h100:2x8, ...")
    parser.add_argument("--size", type=int, default=0, metavar="PX", help="side of the images; no data set is read")
    parser.add_argument("--sensors", default="s1_grd,s2_l2a", help="with --size: their kinds (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=0, metavar="N", help="with --size: classes of the labels")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="records per epoch (default: the data set's)")
    parser.add_argument("--memory", type=float, default=0.0, metavar="GIB",
                        help="memory of a device that may be used (default: TPU: what the compiler allows; GPU: 75 %%, "
                             "as JAX takes; cpu:N: no limit)")
    parser.add_argument("--search", action=argparse.BooleanOptionalAction, default=True,
                        help=f"look for the largest batch that fits, by up to {COMPILES} compilations more")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file too")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python -m dual_encoder.plan --help")


def _read(options: argparse.Namespace, arguments: list[str]) -> tuple[AnyTask, Records | Shapes]:
    """Returns the configuration of the command line, and records as its data set or the options describe them."""
    flag_values = flags.FlagValues()
    command = ["plan", *arguments]
    config_flags.DEFINE_config_file("config", flag_values=flag_values, sys_argv=command)
    parse_flags(command, flag_values)
    values = flag_values.config.to_dict()
    if options.size and "data" in values:
        values["data"]["dir"] = values["data"]["dir"] or _NO_DATA
    elif "data" in values and not values["data"]["dir"]:
        raise UserError("config.data.dir is ''; give it, or the side of the images, such as --size=264")
    config = parse(AnyConfig, values)
    if isinstance(config, EvaluateConfig):
        raise UserError("config.task is 'evaluate'; plans are for pre-training and fine-tuning")
    if options.size:
        return config, shapes(options.size, options.sensors.split(","), options.classes)
    return config, Records(config.data.dir, config.data.split, config.features, weights=config.data.weights)


def _steps(config: AnyTask, batch_size: int, pairs: int) -> int:
    """Returns the length of the schedule in steps; 0 when the number of pairs is not known."""
    return config.schedule.steps or config.schedule.epochs * (pairs // batch_size)


def _guess(answer: StepProgram | str, batch_size: int, limit: int) -> int:
    """Returns the batch that fills `limit` if all but state and program grows with the batch; 0 if nothing is known."""
    if isinstance(answer, str):
        return 0
    fixed = answer.state + answer.memory.code
    return int(batch_size * max(limit - fixed, 0) / max(answer.memory.total - fixed, 1))


@contextlib.contextmanager
def _clock(text: str) -> Iterator[None]:
    """Shows on stderr what is going on, and for how long it has been."""
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
