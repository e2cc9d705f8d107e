"""SHA256SUMS, the digests of the files of a folder, in the form of the program sha256sum, which can check them, too."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping

NAME = "SHA256SUMS"
# A name may lie in a folder below, 'folder/name', but not above.
_LINE = re.compile(r"([0-9a-f]{64})  ((?:(?!\.\.?/)[^/\\\x00-\x1f]+/)*[^/\\\x00-\x1f]+)")


def of_file(path: str | os.PathLike) -> str:
    """Returns the sha256 of a local file, hexadecimal; OSError if it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differing(digests: Mapping[str, str], digest_of: Callable[[str], str]) -> Iterator[tuple[str, OSError | None]]:
    """Yields the files that are not as their digests say: (name, None), or (name, the error of reading it).

    Args:
      digests: file name -> hexadecimal sha256.
      digest_of: file name -> the digest of the file as it is; OSError if it cannot be read.
    """
    for name, expected in digests.items():
        try:
            if digest_of(name) != expected:
                yield name, None
        except OSError as error:
            yield name, error


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
