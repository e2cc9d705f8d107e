"""Rows of metrics.jsonl and TensorBoard's events."""

import json
import resource
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from dual_encoder.config import flatten
from dual_encoder.errors import UserError
from dual_encoder.workdir import metrics

pytestmark = pytest.mark.quick


def events(workdir):
    """The events of all files, in order: each record is a length, its CRC, the event and its CRC."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        blob = path.read_bytes()
        while blob:
            length, = struct.unpack("<Q", blob[:8])
            found.append(Event.FromString(blob[12:12 + length]))
            blob = blob[16 + length:]
    return found


def test_rows_go_to_the_file_and_to_tensorboard(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    writer.write(1, "event", {"event": "started"})
    writer.write(2, "train", {"loss": 3.5})
    writer.close()
    assert metrics.read(tmp_path) == [{"step": 1, "kind": "event", "event": "started"},
                                      {"step": 2, "kind": "train", "loss": 3.5}]
    assert [(event.step, value.tag, value.simple_value) for event in events(tmp_path)
            for value in event.summary.value] == [(2, "train/loss", 3.5)]


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, "eval", {"recall": 0.5})
    writer.close()
    writer = metrics.MetricWriter(tmp_path, 2)
    assert writer.holds(2, "eval") and not writer.holds(3, "eval") and not writer.holds(2, "train")
    writer.close()
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2]
    assert [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START] == [3]


def test_damaged_lines_cost_no_other_row(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) for step in range(4)]
    path.write_bytes("\n".join([rows[0], rows[1][:10], rows[2], rows[3]]).encode() + b"\n\xff\xfe")
    assert metrics.rows_and_damage(path)[1] == [2, 5]
    metrics.MetricWriter(tmp_path, 3).close()
    assert [row["step"] for row in metrics.read(tmp_path)] == [0, 2, 3]
    path.write_text("\n".join([rows[0], rows[1][:10]]))
    assert metrics.rows_and_damage(path)[1] == [], "cut off by a crash"


def test_nested_scores_are_named_by_their_path():
    scores = {"a": {"b": {"c": 1}, "d": None}, "e": "text", "f": [1], "g": {}, "h": True}
    assert flatten(scores, "/") == {"a/b/c": 1, "a/d": None, "e": "text", "f": [1], "h": True}
    assert flatten({"a": {"b/c": {"d": 1}}}, ".", "config.") == {"config.a.b/c.d": 1}
    assert metrics.numbers(scores) == {"a/b/c": 1.0, "h": 1.0}
    assert all(type(number) is float for number in metrics.numbers(scores).values())


def test_a_full_disk_is_an_error_and_no_endless_wait(tmp_path):
    """A limit of the file size stands in for the disk. A writer with its own thread would hang, without a message."""
    writer = metrics.MetricWriter(tmp_path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write '.*(metrics.jsonl|tensorboard)' \(File too large\)"):
            for step in range(1000):
                writer.write(step, "train", {f"metric_{number}": 0.5 for number in range(40)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    writer.close()


def test_each_flipped_bit_of_a_row_is_found(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": 1 / step, "rate": 1e-300})
    writer.close()
    path, rows = tmp_path / "metrics.jsonl", metrics.read(tmp_path)
    assert rows[0] == {"step": 1, "kind": "train", "loss": 1.0, "rate": 1e-300}
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1:])
            seen, damaged = metrics.rows_and_damage(path)
            assert all(row in rows for row in seen) and (damaged or seen == rows), (place, bit)


@pytest.mark.parametrize("row", ['{"step": "5", "kind": "train"}', '{"step": Infinity, "kind": "train"}', "[]", "7",
                                 '{"step": 5, "kind": []}', '{"step": true, "kind": "train"}', "[" * 100000,
                                 '{"step": 5.5, "kind": "train"}', '{"step": -5, "kind": "train"}',
                                 '{"step": 5, "kind": "train", "loss": 1' + "0" * 400 + "}"])
def test_a_row_of_another_form_is_damaged(tmp_path, row, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{row}\n{{"step": 1, "kind": "train", "loss": 2}}\n')
    assert metrics.rows_and_damage(path) == ([{"step": 1, "kind": "train", "loss": 2}], [1])
    metrics.MetricWriter(tmp_path, 3).close()
    assert f"'{path}': 1 damaged lines are left out (first: line 1)" in capsys.readouterr().out
    assert len(metrics.read(tmp_path)) == 1


def test_rows_without_checksums_are_kept_and_get_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "kind": "train", "loss": 2}\n')
    metrics.MetricWriter(tmp_path, 3).close()
    assert '"crc32": "' in path.read_text() and metrics.read(tmp_path) == [{"step": 1, "kind": "train", "loss": 2}]
