"""How many processor cores this process may use."""

import os

from dual_encoder.runtime import cgroup


def usable() -> int:
    """Returns the cores that this process may use, at least 1.

    The number is limited by the process's affinity (taskset, SLURM) and by the time that its control group gets (the
    `--cpus` of a container), rounded up.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *(max(1, -int(-quota // 1)) for quota in _quotas())])


def _quotas() -> list[float]:
    """Returns the cores' worth of time of the control groups that have a limit; of version 2 and 1 of cgroups."""
    first = [text.split() for text in cgroup.texts("cpu.max")]
    first += [list(texts) for texts in zip(cgroup.texts("cpu.cfs_quota_us", "cpu"),
                                           cgroup.texts("cpu.cfs_period_us", "cpu"), strict=False)]
    found = []
    for numbers in first:
        try:
            limit, period = map(int, numbers)  # "max", or -1, is no limit
            found.append(limit / period)
        except (ValueError, ZeroDivisionError):
            continue
    return [quota for quota in found if quota > 0]
