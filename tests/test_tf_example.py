"""Values found in place are those that the protobuf library decodes; what is spelt in another way is left to it."""

import numpy as np
import pytest
from tensorflow_datasets.proto import tf_example_pb2

from dual_encoder.data import tf_example
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

NAMES = (b"s1", b"s2", b"location_id")


def field(number, content):
    """A length-delimited protobuf field."""
    length, varint = len(content), b""
    while True:
        varint += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return bytes([number << 3 | 2]) + varint + content


def feature(*values):
    return field(1, b"".join(field(1, value) for value in values))


def entry(name, value):
    return field(1, field(1, name) + field(2, value))


def example(*entries):
    return field(1, b"".join(entries))


S1, S2, PLACE = entry(b"s1", feature(b"\x0a" * 300)), entry(b"s2", feature(b"radar" * 9)), entry(
    b"location_id", feature("Genève".encode()))
FLOATS = np.array([1.5, 2.5], "<f4").tobytes()
USUAL = {
    "one order": example(S1, S2, PLACE),
    "another order": example(PLACE, S2, S1),
    "unknown features": example(entry(b"cloud", field(2, field(1, FLOATS))), S1, entry(b"x" * 127, feature(b"y")), S2,
                                entry(b"time", field(3, field(1, b"\x96\x01\x05"))), PLACE),
    "unpacked lists": example(entry(b"lat", field(2, b"\x0d" + FLOATS[:4] + b"\x0d" + FLOATS[4:])), S1,
                              entry(b"time", field(3, b"\x08\x96\x01\x08\x05")), S2, PLACE),
    "a name twice": example(S1, entry(b"s1", feature(b"the last counts")), S2, PLACE),
    "a feature of several values that is not asked for": example(S1, S2, PLACE, entry(b"z", feature(b"a", b"b"))),
    "a long value": example(entry(b"s1", feature(bytes(70_000))), S2, PLACE),
    "a feature is missing": example(S1, PLACE),
    "no feature": example(),
}
UNUSUAL = {
    "value before name": example(field(1, field(2, feature(b"1")) + field(1, b"s1")), S2, PLACE),
    "name twice in an entry": example(field(1, field(1, b"z") + field(1, b"s1") + field(2, feature(b"1"))), S2),
    "name last again": example(field(1, field(1, b"z") + field(2, feature(b"1")) + field(1, b"s1")), S2),
    "no name": example(field(1, field(2, feature(b"1"))), S1),
    "no value": example(field(1, field(1, b"s1")), S2),
    "features in two parts": example(S1) + example(S2, PLACE),
    "a field that Example does not have": example(S1, S2) + field(9, b"?"),
    "a field that Features does not have": field(1, S1 + field(9, b"?") + S2),
    "a field that Feature does not have": example(entry(b"s1", feature(b"1") + field(9, b"?")), S2),
    "two values": example(entry(b"s1", feature(b"1", b"2")), S2),
    "no value in the list": example(entry(b"s1", field(1, b"")), S2),
    "an empty feature": example(entry(b"s1", b""), S2),
    "numbers instead of bytes": example(entry(b"s1", field(3, field(1, b"\x05"))), S2),
    "a name of 128 bytes": example(entry(b"x" * 128, feature(b"1")), S2),
    "nothing": b"",
}


def assert_equals_the_library(payload, found):
    decoded = tf_example.decode(payload)
    for name in NAMES:
        assert (name in found) == (name.decode() in decoded)
        if name in found:
            assert payload[slice(*found[name])] == decoded[name.decode()]


@pytest.mark.parametrize("case", USUAL)
@pytest.mark.parametrize("behind", [b"", b"\x0a\x0a\x0a\x0a"])
def test_usual_records_are_found_in_place(case, behind):
    found = tf_example.find(USUAL[case] + behind, len(USUAL[case]), NAMES)
    assert found is not None
    assert_equals_the_library(USUAL[case], found)


@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.parametrize("behind", [b"", b"\x0a\x02\x0a\x00"])
def test_unusual_records_are_left_to_the_library(case, behind):
    assert tf_example.find(UNUSUAL[case] + behind, len(UNUSUAL[case]), NAMES) is None
    tf_example.decode(UNUSUAL[case])


def test_what_protobuf_writes_is_usual():
    written = tf_example_pb2.Example()
    for name, text in (("s1", bytes(3000)), ("s2", b"abc"), ("location_id", b"here"), ("id", b"1")):
        written.features.feature[name].bytes_list.value.append(text)
    written.features.feature["lat"].float_list.value.append(1.5)
    written.features.feature["times"].int64_list.value.extend([-1, 2**40])
    for deterministic in (True, False):
        payload = written.SerializeToString(deterministic=deterministic)
        assert_equals_the_library(payload, tf_example.find(payload, len(payload), NAMES))
    decoded = tf_example.decode(payload)
    assert decoded["lat"] == 1.5 and decoded["times"] == [-1, 2**40] and decoded["id"] == b"1"


@pytest.mark.parametrize("case", ["one order", "unknown features", "a name twice"])
def test_a_record_cut_off_anywhere_is_never_misread(case):
    payload = USUAL[case]
    for length in range(len(payload)):
        for data in (payload[:length], payload):  # nothing behind, or the rest of the file
            assert tf_example.find(data, length, NAMES) is None
        if length:
            with pytest.raises(UserError, match=f"^{length} bytes are not a tf.train.Example"):
                tf_example.decode(payload[:length])


def test_an_entry_that_goes_on_behind_the_record_is_not_read():
    whole = entry(b"s1", feature(b"radar" * 9))
    cut = example(whole[:-4])
    assert tf_example.find(cut + whole[-4:], len(cut), NAMES) is None


def test_a_long_name_is_stepped_over():
    """Two bytes of length, the second read as a part of the name; here all else fits by accident."""
    odd = entry(b"x" * 127 + b"\x12", b"\x0a\x0f\x0a\x0d" + b"y" * 13)
    payload = example(odd, S1, S2, PLACE)
    assert_equals_the_library(payload, tf_example.find(payload, len(payload), NAMES))


def test_no_flipped_byte_makes_both_readers_differ():
    payload, agreed = USUAL["unknown features"], 0
    rng = np.random.default_rng(0)
    for position in range(len(payload)):
        for value in rng.integers(0, 256, 20, np.uint8):
            changed = payload[:position] + bytes([value]) + payload[position + 1:]
            found = tf_example.find(changed, len(changed), NAMES)
            if found is not None:
                try:
                    tf_example.decode(changed)
                except UserError:  # of a name that is no UTF-8, or within a feature that nobody asked for
                    continue
                assert_equals_the_library(changed, found)
                agreed += 1
    assert agreed > 1000
