"""The figures of a plan, as numbers and as text: one compiled step on one kind of chip."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dual_encoder.plan.chips import GIB, Chip
from dual_encoder.plan.hlo import Collective
from dual_encoder.plan.step_program import StepProgram


def figures(program: StepProgram, chip: Chip | None, batch_size: int, steps: int) -> dict[str, Any]:
    """Returns the figures of a plan, per device and step if the name does not say otherwise.

    Args:
      program: the compiled step.
      chip: has the published peak rates; without a chip there are no times.
      batch_size: the global batch.
      steps: of the whole run; 0 if not known.

    Returns:
      name -> figure, ready for JSON. Sizes are in bytes, times in seconds.
    """
    rows = _by_kind(program.collectives)
    sent = sum(row["sent_bytes"] for row in rows.values())
    out = {
        "batch_size": batch_size, "parameters": program.parameters, "state_bytes": program.state,
        "memory": dataclasses.asdict(program.memory) | {"total": program.memory.total}, "flops": program.flops,
        "memory_traffic": program.traffic, "bytes_accessed_by_compiler": program.bytes_accessed, "collectives": rows,
        "sent_bytes": sent, "compile_seconds": program.compile_seconds,
    }
    if chip is None:
        return out
    seconds = {"arithmetic": program.flops / chip.flops, "memory": program.traffic / chip.memory_rate,
               "links": sent / chip.link_rate}
    slowest = max(seconds, key=lambda name: seconds[name])
    return out | {"seconds_at_peak": seconds, "bound_by": slowest, "step_seconds_at_best": seconds[slowest],
                  "pairs_per_second_at_best": batch_size / seconds[slowest],
                  "input_bytes_per_second_at_best": program.memory.next_batch / seconds[slowest],
                  "steps": steps or None, "hours_at_best": steps * seconds[slowest] / 3600 or None}


def lines(one: Mapping[str, Any], chip: Chip | None, limit: int) -> Iterable[str]:
    """Yields the result of `figures` as lines of text; `limit` is the usable memory in bytes, 0 without a limit."""
    memory = one["memory"]
    state = f"state {one['state_bytes'] / GIB:.2f}, {one['parameters'] / 1e6:.1f} M parameters"
    verdict = "" if not limit else (f"of {limit / GIB:.2f} ({memory['total'] / limit:.0%}): "
                                    + ("fits" if memory["total"] <= limit else "does not fit"))
    if chip and limit == chip.usable:
        verdict += f"; {chip.kind} has {chip.memory / GIB:.0f}"
    yield from _columns(("memory per device", "GiB", ""), [
        ("arguments", memory["arguments"], state),
        ("outputs", memory["outputs"], f"{memory['aliased'] / GIB:.2f} of it in place of arguments, counted once"),
        ("temporaries", memory["temporaries"], "activations, gradients"),
        ("program", memory["code"], ""),
        ("next batch", memory["next_batch"], "sent during the step"),
        ("total", memory["total"], verdict)], lambda value: f"{value / GIB:.3f}")
    at = one.get("seconds_at_peak", {})
    rate = {} if chip is None else {"arithmetic": f"{chip.flops / 1e12:,.0f} TFLOP/s",
                                    "memory": f"{chip.memory_rate / 1e9:,.0f} GB/s",
                                    "links": f"{chip.link_rate / 1e9:,.0f} GB/s"}
    notes = {name: f"{1000 * seconds:.2f} ms at {rate[name]}" for name, seconds in at.items()}
    yield from _columns(("per device and step", "10^9", ""), [
        ("floating-point operations", one["flops"], notes.get("arithmetic", "")),
        ("bytes from and to memory", one["memory_traffic"], notes.get("memory", "")),
        ("bytes sent to others", one["sent_bytes"], notes.get("links", ""))], lambda value: f"{value / 1e9:,.3f}")
    yield from _columns(("between devices, per device and step", "count", "MB of data, MB sent"), [
        (kind, row["count"], f"{row['bytes'] / 1e6:,.3f}, {row['sent_bytes'] / 1e6:,.3f}")
        for kind, row in one["collectives"].items()] or [("nothing", 0, "")], lambda value: f"{value:,}")
    if at:
        yield (f"at best {1000 * one['step_seconds_at_best']:.1f} ms a step, bound by {one['bound_by']}: "
               f"{one['pairs_per_second_at_best']:,.0f} pairs/s, if the input brings "
               f"{one['input_bytes_per_second_at_best'] / 1e9:,.2f} GB/s to each device")
        if one["steps"]:
            yield f"{one['steps']:,} steps of the schedule: {one['hours_at_best']:.2f} hours at best"


def _columns(head: tuple[str, str, str], rows: Sequence[tuple[str, float, str]], number: Callable[[float], str]
             ) -> Iterable[str]:
    """Yields a table of three columns, name, number and note, and an empty line."""
    cells = [head, *((name, number(value), note) for name, value, note in rows)]
    width, digits = (max(len(row[column]) for row in cells) for column in (0, 1))
    for name, value, note in cells:
        yield f"{name:<{width}}  {value:>{digits}}  {note}".rstrip()
    yield ""


def _by_kind(collectives: Iterable[Collective]) -> dict[str, dict[str, Any]]:
    """Returns kind -> the number of collectives per step, and their bytes."""
    rows: dict[str, dict[str, Any]] = {}
    for one in collectives:
        row = rows.setdefault(one.kind, {"count": 0, "bytes": 0, "sent_bytes": 0.0})
        row["count"] += one.times
        row["bytes"] += one.times * one.bytes
        row["sent_bytes"] += one.times * one.sent
    return dict(sorted(rows.items()))
