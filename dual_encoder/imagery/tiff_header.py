"""Finds TIFF files that are shorter than their header says.

GDAL skips tags and directories beyond the end of a file with a warning. So a file that lost its last bytes may still
give all pixels, but no georeference, no no-data value and no mask.
"""

import struct
from typing import BinaryIO

_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MOST_DIRECTORIES = 1000


def cut_off(file: BinaryIO, size: int) -> str:
    """Returns the part of a TIFF's header that lies beyond the end of the file; '' if all is there.

    Strips and tiles of pixels are not looked at: GDAL tells of those that it misses.

    Args:
      file: a TIFF or BigTIFF.
      size: its length in bytes.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    if len(head) < (16 if big else 8):
        return "its header"
    place = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    # count of entries; tag, type, count, value or place; place of the next directory (TIFF 6.0, section 2)
    counted, entry, following = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    seen: set[int] = set()
    while place and place not in seen and len(seen) < _MOST_DIRECTORIES:
        seen.add(place)
        length = struct.calcsize(order + counted)
        file.seek(min(place, size))
        count = int.from_bytes(file.read(length), "little" if order == "<" else "big")
        entries = struct.calcsize(order + entry) * count
        end = place + length + entries + struct.calcsize(order + following)
        if end > size:
            return f"its directory at byte {place}"
        data = file.read(entries)
        for tag, kind, number, at in struct.iter_unpack(order + entry, data):
            taken = _BYTES.get(kind, 1) * number
            if taken > (8 if big else 4) and at + taken > size:
                return f"its tag {tag}, which ends at byte {at + taken}"
        place = struct.unpack(order + following, file.read(struct.calcsize(order + following)))[0]
    return ""
