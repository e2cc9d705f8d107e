"""Digests of the small files of a workdir: JSON files and pictures that are written whole.

    WORKDIR/digests.json    file -> sha256 of its content, and of the content before

A file is written after its new digest, and the old digest stays until the next change. So a process that is killed
in between leaves a file that matches one of the two. Workdirs of earlier versions have no such file.
"""

import hashlib
import json
from typing import Any

from etils import epath

from dual_encoder.storage import atomic

_SUMS = "digests.json"


def write(workdir: epath.PathLike, name: str, data: bytes) -> None:
    """Writes WORKDIR/name, after its digest; after a crash the file is complete or absent."""
    folder, sums = epath.Path(workdir), _load(workdir)
    known = [*sums.get(name, []), *([_digest(folder / name)] if name not in sums and (folder / name).exists() else [])]
    wanted = hashlib.sha256(data).hexdigest()
    if known[:1] != [wanted]:
        sums[name] = [wanted, *known[:1]]
        atomic.write(folder / _SUMS, (json.dumps(sums, indent=1) + "\n").encode())
    atomic.write(folder / name, data)


def fault(workdir: epath.PathLike, name: str) -> str | None:
    """Returns a line if WORKDIR/name has digests and matches none of them, or None."""
    known = _load(workdir).get(name)
    if known is None or _digest(epath.Path(workdir) / name) in known:
        return None
    return f"{name} does not match its digest in {_SUMS}: one of the two was damaged or edited"


def _load(workdir: epath.PathLike) -> dict[str, Any]:
    """Returns the digests by file; none if they are missing or cannot be read."""
    try:
        sums = json.loads((epath.Path(workdir) / _SUMS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: known for name, known in sums.items() if isinstance(known, list)} if isinstance(sums, dict) else {}


def _digest(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
