"""The files of this process's control group: what a container or a scheduler allows it."""

import pathlib
from collections.abc import Iterator

_MOUNT = pathlib.Path("/sys/fs/cgroup")
_OWN = pathlib.Path("/proc/self/cgroup")


def texts(name: str, controller: str = "") -> Iterator[str]:
    """Yields the content of a file of the process's control group, and of those above it, which limit it, too.

    Args:
      name: such as 'memory.max'.
      controller: '' for version 2 of cgroups; the name of a hierarchy of version 1, such as 'memory'.
    """
    top = _MOUNT / controller
    group = top / _path(controller).lstrip("/")
    # In a container the mount often is the group itself, and the path is that of the host: only `top` is there then.
    for folder in (group, *group.parents):
        if folder.is_relative_to(top):
            try:
                yield (folder / name).read_text()
            except (OSError, ValueError):
                continue


def _path(controller: str) -> str:
    """Returns the path of the group below the mount, as the kernel tells it; '' if it does not."""
    try:
        lines = _OWN.read_text().splitlines()
    except (OSError, ValueError):
        return ""
    for line in lines:  # 'number:controllers:path'; version 2 is '0::path'
        _, names, path = line.split(":", 2)
        if controller in names.split(",") and ".." not in path:
            return path
    return ""
