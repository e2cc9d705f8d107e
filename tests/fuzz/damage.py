"""Damage of any file: bytes cut, flipped, overwritten or of another format. Everything follows from one seed.

A mutation takes the bytes of a file and a generator, and returns other bytes. `DAMAGES` fit every file. The mutations
of `hostile.py` know a format, and leave its checksums right.
"""

import io
import struct
import zipfile
from collections.abc import Callable, Mapping

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

_ENDS = 600  # bytes at either end of a file, where formats keep headers and directories
_NUMBERS = tuple(struct.pack("<Q", value) for value in (0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1))


def truncated(content: bytes, random: np.random.Generator) -> bytes:
    """Cuts the file anywhere, often near its end or in half, as a broken download does."""
    return content[:random.choice([random.integers(len(content)), len(content) // 2, max(len(content) - 1, 0)])]


def emptied(content: bytes, random: np.random.Generator) -> bytes:
    """Leaves nothing of the file."""
    return b""


def flipped(content: bytes, random: np.random.Generator) -> bytes:
    """Flips one bit anywhere."""
    return _flip(content, int(random.integers(8 * len(content)))) if content else b"\1"


def header_flipped(content: bytes, random: np.random.Generator) -> bytes:
    """Flips one bit near the beginning or the end."""
    return _flip(content, 8 * _near_an_end(content, random) + int(random.integers(8))) if content else b"\1"


def overwritten(content: bytes, random: np.random.Generator) -> bytes:
    """Overwrites up to 64 bytes with noise."""
    start = int(random.integers(len(content) + 1))
    noise = random.bytes(int(random.integers(1, 65)))
    return content[:start] + noise + content[start + len(noise):]


def hollowed(content: bytes, random: np.random.Generator) -> bytes:
    """Sets the rest of the file to 0, as after a crash before the pages were written."""
    start = int(random.integers(len(content) + 1))
    return content[:start] + bytes(len(content) - start)


def huge_number(content: bytes, random: np.random.Generator) -> bytes:
    """Writes a small or very large number of 1 to 8 bytes near the beginning or the end, in either byte order."""
    start = _near_an_end(content, random)
    number = _NUMBERS[random.integers(len(_NUMBERS))][:2 ** int(random.integers(4))]
    number = number[::random.choice([1, -1])]
    return content[:start] + number + content[start + len(number):]


def prolonged(content: bytes, random: np.random.Generator) -> bytes:
    """Appends noise, or the file itself."""
    return content + random.choice([random.bytes(100), content])


def foreign(content: bytes, random: np.random.Generator) -> bytes:
    """Puts a file of another format in its place."""
    return _FOREIGN[random.integers(len(_FOREIGN))]


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "nothing of use")
    return file.getvalue()


_FOREIGN = (
    b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\0\0\0\0" + bytes(80),
    b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 " + bytes(80), b"\x89HDF\r\n\x1a\n" + bytes(100),
    b"II*\0\x08\0\0\0" + bytes(40),
    b"PAR1" + bytes(20) + b"PAR1", b"\x1f\x8b\x08\0" + bytes(30), b"\x93NUMPY\1\0v\0{'descr': '<f4'" + bytes(100),
    _zip(),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n", b"{}", b"[]", b"null", b"\n",
    b"id,split\n",
    b"\xff\xfe{\0}\0")


def _flip(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _near_an_end(content: bytes, random: np.random.Generator) -> int:
    place = int(random.integers(min(_ENDS, len(content)) or 1))
    return place if random.random() < 0.5 else max(len(content) - 1 - place, 0)


DAMAGES: Mapping[str, Mutation] = {mutation.__name__: mutation for mutation in (
    truncated, emptied, flipped, header_flipped, overwritten, hollowed, huge_number, prolonged, foreign)}
