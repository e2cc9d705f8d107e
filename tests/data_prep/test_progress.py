"""Lines of progress: counts, rates and the time left follow from what was counted."""

import re

import pytest

from dual_encoder import console

pytestmark = pytest.mark.quick


def run(capsys, monkeypatch, counts, seconds, total=100):
    """Shows `counts` one after another, `seconds` apart on a clock of ours; returns the lines."""
    clock = iter(range(1000))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock) * seconds)
    values = iter([counts[0], *counts])
    shown = console.Progress("records", total, lambda: next(values))
    shown._start, shown._first = console.time.monotonic(), next(values)
    for _ in counts:
        shown._show()
    return capsys.readouterr().out.splitlines()


def test_rates_and_time_left(capsys, monkeypatch):
    counts = [(0, 0, ""), (40, 80_000_000, "2 rejected"), (100, 200_000_000, "2 rejected")]
    lines = run(capsys, monkeypatch, counts, 10.0)
    assert lines == ["0/100 records  0.0 records/s  0.0 MB/s  ETA unknown",
                     "40/100 records  2.0 records/s  4.0 MB/s  2 rejected  ETA 0:30",
                     "100/100 records  3.3 records/s  6.7 MB/s  2 rejected  ETA 0:00"]


def test_work_that_was_done_before_does_not_count_as_speed(capsys, monkeypatch):
    lines = run(capsys, monkeypatch, [(60, 600, ""), (60, 600, ""), (80, 800, "")], 10.0)
    assert lines[-1] == "80/100 records  0.7 records/s  0.0 MB/s  ETA 0:30"


def test_long_work_is_told_in_hours(capsys, monkeypatch):
    lines = run(capsys, monkeypatch, [(0, 0, ""), (1, 0, "")], 60.0, total=125)
    assert lines[-1].endswith("ETA 4:08:00")


def test_the_end_is_shown_once(capsys):
    done = [0, 0]
    with console.Progress("records", 3, lambda: (*done, "")):
        done[:] = 3, 30
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and re.match(r"3/3 records  \d+ records/s  \d+\.\d MB/s  ETA 0:00", lines[0])
