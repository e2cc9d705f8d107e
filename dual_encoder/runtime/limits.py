"""What the machine, a container or a scheduler allows this process, and the settings that help if it is too little."""

import os
import pathlib

from dual_encoder.errors import UserError
from dual_encoder.runtime import cgroup

_SHARED = pathlib.Path("/dev/shm")
_MEMORY_FLAGS = "docker --memory, SLURM --mem"
_SHARED_FLAGS = "docker --shm-size=8g, Kubernetes: an emptyDir of medium Memory at /dev/shm"


def memory() -> tuple[int, str]:
    """Returns the bytes of memory that this process may use, and what limits them: the machine, or its control group.

    Control groups of version 1 and 2 are read; without a limit, or above the machine's memory, the machine counts.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = [int(text) for text in (*cgroup.texts("memory.max"), *cgroup.texts("memory.limit_in_bytes", "memory"))
             if text.strip().isdigit()]  # 'max' is no limit
    group = min(found, default=machine)
    return (group, "memory limit of the container or job") if group < machine else (machine, "memory of the machine")


def shared_memory() -> int | None:
    """Returns the free bytes of /dev/shm, through which processes pass batches; None if there is no such folder."""
    try:
        room = os.statvfs(_SHARED)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def check_feed(batch: int, processes: int) -> None:
    """Raises UserError if reading ahead cannot fit: the run would be killed without a message.

    Args:
      batch: bytes of the rows that this process feeds to one step.
      processes: reading processes; each holds at least one batch in shared memory.
    """
    allowed, limit = memory()
    ahead = 3 + processes  # batches: the one in use and two in a queue; each process holds another one
    if ahead * batch > allowed:
        raise UserError(f"{ahead} batches that are read ahead take {size(ahead * batch)}, the {limit} is "
                        f"{size(allowed)}; lower --config.batch_size{' or --config.data.processes' * (processes > 0)}, "
                        f"or raise the limit ({_MEMORY_FLAGS})")
    free = shared_memory()
    if processes and free is not None and processes * batch > free:
        raise UserError(f"{processes} reading processes pass batches of {size(batch)} through /dev/shm, which has "
                        f"{size(free)} free; set --config.data.processes=0, or give it more ({_SHARED_FLAGS})")


def why_killed() -> str:
    """Returns, for the message on a process that was killed: whether memory was the reason, its limit, and flags."""
    allowed, limit = memory()
    free = shared_memory()
    shared = "" if free is None else f", /dev/shm has {size(free)} free ({_SHARED_FLAGS})"
    said = "its control group ran out of memory" if _kills() else "most often because memory ran out"
    return f"{said}: the {limit} is {size(allowed)} ({_MEMORY_FLAGS}){shared}"


def size(count: int) -> str:
    """Returns a number of bytes as '2.0 GB' or '0.8 MB'.

    >>> size(2_000_000_000), size(812_345)
    ('2.0 GB', '0.8 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _kills() -> int:
    """Returns how many processes the kernel has killed in this control group because its memory ran out."""
    texts = [*list(cgroup.texts("memory.events"))[:1], *list(cgroup.texts("memory.oom_control", "memory"))[:1]]
    counts = [line.split()[1] for text in texts for line in text.splitlines() if line.startswith("oom_kill ")]
    return sum(int(count) for count in counts if count.isdigit())
