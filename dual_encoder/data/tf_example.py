"""tf.train.Example, the content of a record: decoded as a whole, or its bytes found in place.

`find` reads the usual spelling without copying the record:

    Example  = 0A len Features          Feature   = 0A len BytesList (other kinds are stepped over)
    Features = (0A len Entry)*          BytesList = 0A len bytes
    Entry    = 0A len name 12 len Feature

protobuf also allows other spellings (fields in another order, repeated or unknown fields); only `decode` reads these.
"""

from collections.abc import Container
from typing import Any

import google.protobuf.message

from dual_encoder.data.tf_message import Example
from dual_encoder.errors import UserError


def decode(payload: bytes) -> dict[str, Any]:
    """Decodes a serialized tf.train.Example by the protobuf library.

    Returns:
      feature name -> its value (bytes, int or float), or the list of its values if there is not exactly one.

    Raises:
      UserError: not an Example, or one that is cut off.
    """
    try:
        features = Example.FromString(payload).features.feature
    except google.protobuf.message.DecodeError as error:
        raise UserError(f"{len(payload)} bytes are not a tf.train.Example ({error}); rebuild the data set") from error
    record = {}
    for name, feature in features.items():
        kind = feature.WhichOneof("kind")
        values = getattr(feature, kind).value if kind else []
        record[name] = values[0] if len(values) == 1 else list(values)
    return record


def find(data: bytes, end: int, names: Container[bytes]) -> dict[bytes, tuple[int, int]] | None:
    """Finds the values of features.

    Args:
      data: begins with a serialized tf.train.Example.
      end: its length; bytes of `data` from there on are not read.
      names: features that hold one value of bytes.

    Returns:
      name -> (start, stop) of each feature's value: of its bytes for `names`, of the serialized Feature, which is not
      parsed, for others. None if only `decode` can read the record.
    """
    try:
        if data[0] != 0x0A:
            return None
        at, stop = _length(data, 1)
        if stop != end:
            return None
        found = {}
        while at < end:
            if data[at] != 0x0A:
                return None
            at, stop = _length(data, at + 1)
            name_end = at + 2 + data[at + 1]
            if data[at] != 0x0A or data[name_end] != 0x12:
                return None
            name = data[at + 2:name_end]
            at, feature_stop = _length(data, name_end + 1)
            if feature_stop != stop or stop > end:
                return None
            if name in names:
                for _ in ("BytesList", "value"):
                    if data[at] != 0x0A:
                        return None
                    at, value_stop = _length(data, at + 1)
                    if value_stop != stop:
                        return None
            found[name] = (at, stop)
            at = stop
        return found
    except IndexError:  # lengths beyond the end of the data
        return None


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Reads the length at `at`, a varint; returns the start and the stop of the bytes of that length."""
    byte = data[at]
    at += 1
    length, shift = byte & 0x7F, 7
    while byte > 0x7F:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
    return at, at + length
