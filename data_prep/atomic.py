"""Files that are either complete or not there."""

import os
import pathlib


def write(path: str | os.PathLike, data: bytes) -> None:
    """Writes `data` under a temporary name, syncs it, and renames it to `path`; an old file stays until then."""
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
