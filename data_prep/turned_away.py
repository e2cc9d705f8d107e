"""The rows of rejected.jsonl as text: unusable records, those that a filter left out, and files that fit no pattern.

A row has 'id', 'kind', 'stage' (list or read) and 'reason'. Kinds: 'fault' counts towards --max-rejected; 'filter'; and
'unmatched', which stands for 'count' files and names the first of them in 'examples'.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_prep.importers import Unmatched

UNMATCHED = "unmatched"


def row(item: Unmatched) -> bytes:
    """Returns the line of files that fit no pattern."""
    return json.dumps({**dataclasses.asdict(item), "kind": UNMATCHED, "stage": "list"}).encode() + b"\n"


def unmatched_text(unmatched: Sequence[Unmatched]) -> str:
    """Returns ', 8 files fit no pattern (first ...)' for the line of a listing; '' of none."""
    count = sum(item.count for item in unmatched)
    first = "; ".join(f"'{item.id}' {item.reason}" for item in unmatched[:2])
    return f", {count} file{'s' * (count != 1)} left out ({first})" if count else ""


def summary(rows: Iterable[str], where: str) -> Iterator[str]:
    """Yields the lines on rejected.jsonl, nothing of an empty one.

    Args:
      rows: its lines.
      where: its path, for people.
    """
    records, files = _parted(rows)
    faults = sum(item["kind"] == "fault" for item in records)
    if records:
        yield f"{faults} unusable and {len(records) - faults} filtered out, see {where}"
        yield from (f"  {item['id']}: {item['reason']}" for item in records[:3])
    if files:
        yield f"{_sum(files)} files fit no pattern and are left out, see {where}"
        yield from (f"  {item['id']}: {item['reason']}" for item in files[:3])


def count(rows: Iterable[str], where: str) -> str:
    """Returns the counts of rejected.jsonl in one line; arguments as of `summary`."""
    records, files = _parted(rows)
    return f"{len(records)} rejected by the build{f', {_sum(files)} files left out' * bool(files)}, see {where}"


def first_reason(rows: Iterable[str]) -> str:
    """Returns "'id': reason" of the first row that is a record, or else of the first row; '' of none."""
    for item in (found for part in _parted(rows) for found in part):
        return f"'{item['id']}': {item['reason']}"
    return ""


def _parted(rows: Iterable[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows that are records, and those of files that fit no pattern."""
    found: list[dict[str, Any]] = [json.loads(line) for line in rows]
    return [item for item in found if item["kind"] != UNMATCHED], [item for item in found if item["kind"] == UNMATCHED]


def _sum(files: Iterable[dict[str, Any]]) -> int:
    return sum(item["count"] for item in files)
