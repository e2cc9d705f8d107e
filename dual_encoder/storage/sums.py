"""SHA256SUMS, the digests of the files of a folder, in the form of the program sha256sum, which can check them, too."""

import hashlib
import os
import re
from collections.abc import Mapping

NAME = "SHA256SUMS"
# A name may lie in a folder below, 'folder/name', but not above.
_LINE = re.compile(r"([0-9a-f]{64})  ((?:(?!\.\.?/)[^/\\\x00-\x1f]+/)*[^/\\\x00-\x1f]+)")


def of_file(path: str | os.PathLike) -> str:
    """Returns the sha256 of a local file, hexadecimal; OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_text(digests: Mapping[str, str]) -> bytes:
    """Returns the content of SHA256SUMS.

    Args:
      digests: file name -> hexadecimal sha256.
    """
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items())).encode()


def of_text(data: bytes) -> dict[str, str]:
    """Returns file name -> sha256; ValueError with the number of the first line that is damaged."""
    lines = data.decode("utf-8", "replace").split("\n")
    found: dict[str, str] = {}
    for number, line in enumerate(lines[:-1], 1):
        match = _LINE.fullmatch(line)
        if match is None or match[2] in found:
            raise ValueError(f"line {number}")
        found[match[2]] = match[1]
    if lines[-1] or not found:
        raise ValueError(f"line {len(lines)}")
    return found
