"""Byte positions of the tensors in a serialized record, learnt from the first record.

Records with the same layout are then read directly into the batch, without parsing. The records of a data set differ in
their values, and little in the bytes between these: tags, lengths, names. The parser (`tf_example.find`) reads only
those bytes. So two records of equal length that agree in them have the same layout.
"""

from collections.abc import Mapping, Sequence

import numpy as np

_FOOTER = 4  # bytes of the checksum behind a record


class Layout:
    """The layout of a record.

    Args:
      data: the record and its checksum.
      values: name -> (start, stop) of every value, as `tf_example.find` returns.
      tensors: the names of the values that get memory of their own.

    Attributes:
      size: bytes of the record and its checksum.
    """

    def __init__(self, data: bytes, values: Mapping[bytes, tuple[int, int]], tensors: Sequence[bytes]):
        self.size = len(data)
        self._tensors = sorted(tensors, key=lambda name: values[name])
        ends = [0, *(end for name in self._tensors for end in values[name]), len(data) - _FOOTER]
        kept = [slice(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=True)]
        self._cuts = np.cumsum([0, *(part.stop - part.start for part in kept), _FOOTER]).tolist()
        between = bytearray(b"\xff" * len(data))
        for start, stop in values.values():
            between[start:stop] = bytes(stop - start)
        self._between = int.from_bytes(b"".join(between[part] for part in kept), "little")
        self._pattern = int.from_bytes(b"".join(data[part] for part in kept), "little") & self._between
        self._values = {}  # places of the other values in the kept bytes
        for name in values.keys() - set(tensors):
            start, stop = values[name]
            gone = sum(values[tensor][1] - values[tensor][0] for tensor in self._tensors if values[tensor][0] < start)
            self._values[name] = slice(start - gone, stop - gone)

    def buffers(self, rows: Mapping[bytes, np.ndarray]) -> tuple[bytearray, list]:
        """Returns memory to read such a record into.

        Args:
          rows: tensor name -> uint8 [bytes of the tensor].

        Returns:
          the kept bytes: all but the tensors; the buffers that the record and, last, its checksum fill.
        """
        cuts = self._cuts
        kept = bytearray(cuts[-1])
        view = memoryview(kept)
        buffers: list = [view[:cuts[1]]]
        for at, name in enumerate(self._tensors, start=1):
            buffers += (rows[name], view[cuts[at]:cuts[at + 1]])
        buffers.append(view[cuts[-2]:])
        return kept, buffers

    def fits(self, kept: bytearray) -> bool:
        """Returns True if the record that filled `kept` has this layout."""
        return int.from_bytes(kept, "little") & self._between == self._pattern

    def equals(self, other: "Layout") -> bool:
        """Returns True if records of the other layout have this one, too."""
        return (self._cuts, self._between, self._pattern) == (other._cuts, other._between, other._pattern)

    def value(self, name: bytes, kept: bytearray) -> bytes:
        """Returns the value `name`, not one of the tensors."""
        return bytes(kept[self._values[name]])
