"""The digest of a file."""

import hashlib
import pathlib


def sha256(path: pathlib.Path) -> str:
    """Returns the hexadecimal sha256 of a file; OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
