"""How many processor cores this process may use."""

import os
import pathlib

_CGROUP = pathlib.Path("/sys/fs/cgroup")


def usable() -> int:
    """Returns the cores that this process may use, at least 1.

    The number is limited by the process's affinity (taskset, SLURM) and by the time that its control group gets (the
    `--cpus` of a container), rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, -int(-quota // 1)))


def _quota() -> float | None:
    """Returns the cores' worth of time of the control group, or None without a limit; of version 2 and 1 of cgroups."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        cores = int(limit) / int(period)  # "max", or -1, is no limit
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
