"""Checks the pages of an LMDB before the library maps it: a wrong length or number there ends a process by a bus error.

The format is that of LMDB 0.9 (MDB_page, MDB_node, MDB_meta and MDB_db in mdb.c), little-endian:

    page    number u64, pad u16, flags u16, lower u16, upper u16, then offsets of nodes u16 up to `lower`
    node    size low u16, size high u16, flags u16, length of the key u16, key, value
            in a branch the first three are the number of a page; a large value is the number of an overflow page
    meta    after the head of a page: magic, version u32, address, map size u64; two MDB_db; last page, transaction u64
    MDB_db  size of a page u32, flags u16, depth u16, numbers of pages 3 x u64, entries u64, root u64
"""

import mmap
import pathlib
import struct

from dual_encoder.errors import UserError

_HEAD, _NODE = 16, 8  # bytes of a page's and a node's head
_MAGIC = 0xBEEFC0DE
_META = 152  # bytes of a meta page that mean something
_BRANCH, _LEAF, _OVERFLOW, _BIG = 1, 2, 4, 1
_NONE = 2**64 - 1  # root of an empty database


def check(path: pathlib.Path) -> None:
    """Raises UserError unless all pages that the tree of a data.mdb names lie in the file and hold what they should."""
    try:
        if path.stat().st_size < 2 * _META:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check(data)
    except FileNotFoundError as error:
        raise UserError(f"'{path}' is missing; fetch the sample again") from error
    except (OSError, ValueError, struct.error) as error:
        raise UserError(f"'{path}' cannot be read as LMDB ({error}); it looks truncated or damaged, fetch the sample "
                        "again") from error


def _check(data: mmap.mmap) -> None:
    size = struct.unpack_from("<I", data, 40)[0]
    if not (512 <= size <= 65536 and size & (size - 1) == 0):
        raise ValueError(f"its pages have {size} bytes")
    metas = [struct.unpack_from("<QQQ", data, start + 128) for start in (0, size)]
    if any(struct.unpack_from("<I", data, start + _HEAD)[0] != _MAGIC for start in (0, size)):
        raise ValueError("it has no magic number")
    for root, last, _ in metas:  # both: the library takes the one of the later transaction
        if (last + 1) * size > len(data):
            raise ValueError(f"it has {len(data)} bytes, its header says {(last + 1) * size}")
        if root != _NONE:
            _check_tree(data, size, root, last)


def _check_tree(data: mmap.mmap, size: int, root: int, last: int) -> None:
    """Visits every page of a tree once; ValueError for one that is not there, or is visited twice."""
    waiting, seen = [root], {0, 1}
    while waiting:
        number = waiting.pop()
        if number > last or number in seen:
            raise ValueError(f"page {number} of {last + 1} is not there or is used twice")
        seen.add(number)
        start = number * size
        own, _, flags, lower, _ = struct.unpack_from("<QHHHH", data, start)
        if own != number or flags & (_BRANCH | _LEAF) not in (_BRANCH, _LEAF) or not _HEAD <= lower <= size:
            raise ValueError(f"page {number} is no page of a tree")
        for offset in struct.unpack_from(f"<{(lower - _HEAD) // 2}H", data, start + _HEAD):
            if offset + _NODE > size:
                raise ValueError(f"page {number} has a node at {offset}")
            low, high, node_flags, key = struct.unpack_from("<HHHH", data, start + offset)
            length = low | high << 16
            if flags & _BRANCH:
                waiting.append(length | node_flags << 32)
                length = 0
            elif node_flags & _BIG:
                if offset + _NODE + key + 8 > size:
                    raise ValueError(f"page {number} has a node at {offset}")
                large = struct.unpack_from("<Q", data, start + offset + _NODE + key)[0]
                _check_overflow(data, size, large, length, last)
                length = 8
            if offset + _NODE + key + length > size:
                raise ValueError(f"page {number} has a node of {length} bytes at {offset}")


def _check_overflow(data: mmap.mmap, size: int, number: int, length: int, last: int) -> None:
    if number > last or number * size + _HEAD + length > len(data):
        raise ValueError(f"a value of {length} bytes at page {number} of {last + 1} reaches beyond the end")
    if struct.unpack_from("<QHH", data, number * size)[::2] != (number, _OVERFLOW):
        raise ValueError(f"page {number} holds no large value")
