"""Large pages of memory for XLA's CPU backend, which asks for the memory of a step anew each time.

With pages of 4 kB the kernel then clears 50,000 of them for 200 MB, a fifth of the time of a step. glibc asks for pages
of 2 MB where GLIBC_TUNABLES says so when the process starts; Linux grants them by default where a program asks.
"""

import os
import pathlib

import jax

_SETTING = "glibc.malloc.hugetlb=1"
_KERNEL = "/sys/kernel/mm/transparent_hugepage/enabled"  # 'always', to programs that ask ('madvise'), or 'never'


def advice() -> str:
    """Returns what to set to make steps on this machine's CPU faster, '' where there is nothing to gain."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if jax.default_backend() != "cpu" or "glibc.malloc.hugetlb" in tunables:
        return ""
    try:
        asked = "[madvise]" in pathlib.Path(_KERNEL).read_text()
        glibc = os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0"
    except (OSError, ValueError):
        return ""
    if not asked or [int(part) for part in glibc.split()[-1].split(".")] < [2, 35]:  # the first that knows the setting
        return ""
    setting = f"{tunables}:{_SETTING}" if tunables else _SETTING
    return f"a step on this CPU takes about a fifth less time with GLIBC_TUNABLES={setting} in the environment"
