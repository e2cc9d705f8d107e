"""The audit of a data set for leaks: which of its records another one, or another split, holds as well.

    overlap.jsonl   a line per pair: kind, ids and splits of both, metres or correlation
    overlap.png     the first pairs of each kind, one above the other
    overlap.json    the counts, next to the data that is evaluated on: training prints them with its scores
"""

import datetime
import io
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.look import matching, views
from data_prep.look.matching import NEIGHBOUR, Pairs
from data_prep.look.views import Images, Looks
from dual_encoder.data import overlap as stored
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.imagery import pictures
from dual_encoder.storage import atomic

SCENE = "scene"  # records of one chain of neighbours
_NAMED = 3  # pairs that are printed of each kind
_COLUMNS, _TILE = 4, 160  # of the picture: pairs of a kind, pixels


def audit(first: epath.PathLike, second: epath.PathLike | None, out: pathlib.Path, workers: int = 1) -> Iterator[str]:
    """Yields the lines of the audit, and writes the pairs, the picture and the counts.

    Args:
      first: a data set, usually that for training.
      second: the data set that is evaluated on; None compares the splits of the first.
      out: of the pairs, a .jsonl file; the picture lies next to it.
      workers: processes that read.

    Raises:
      UserError: no such data set; one that cannot be compared or is in a bucket; a file that cannot be written.
    """
    within = second is None
    folders = [first] if second is None else [first, second]
    infos = [load_info(folder) for folder in folders]
    _check_places([*folders, out])
    if within and len(infos[0].shards) < 2:
        raise UserError(f"'{first}' has one split, {next(iter(infos[0].shards), 'none')}; name another data set to "
                        "compare it with")
    seen = views.shared(infos[0].sensors, infos[-1].sensors)
    edges = not all(map(views.places_are_known, folders))
    ours = views.look(first, seen, edges, workers)
    theirs = ours if second is None else views.look(second, seen, edges, workers)
    found = matching.match(ours, theirs, seen, within)
    yield "compared by " + ", ".join(["place", *(f"{view.feature} {' '.join(view.bands)}" for view in seen)])
    yield from matching.unseen(ours, theirs)
    report = _report(ours, theirs, found, within)
    found = [_of_two_splits(pairs, ours, theirs, within) for pairs in found]
    with atomic.create(out) as file:
        for pairs in found:
            for row in _rows(pairs, ours, theirs):
                file.write((json.dumps(row) + "\n").encode())
    for pairs in found:
        yield f"{len(pairs.rows)} pairs by {pairs.kind}"
        for row in _rows(Pairs(pairs.kind, pairs.rows[:_NAMED], pairs.scores[:_NAMED]), ours, theirs):
            yield f"  {row['a']['id']} ({row['a']['split']}), {row['b']['id']} ({row['b']['split']}): {_measure(row)}"
    if picture := _picture(found, ours, theirs):
        atomic.write(out.with_suffix(".png"), picture)
        yield f"picture: {out.with_suffix('.png')} (pairs one above the other, by kind)"
    stored.save(theirs.folder, report)
    for split in report["records"]:
        splits = [other for other in ours.splits if not within or other != split]
        yield f"{split}: {stored.found(report, split, splits)}"
    yield f"pairs: {out}"
    yield f"counts: {theirs.folder / stored.FILE}; training prints them with its scores"


def _report(ours: Looks, theirs: Looks, found: Sequence[Pairs], within: bool) -> dict[str, Any]:
    """Returns the counts as JSON values; see `dual_encoder.data.overlap.save`."""
    touched = {pairs.kind: np.concatenate([pairs.rows, pairs.rows[:, ::-1]]) if within else pairs.rows
               for pairs in found}  # each record of the second data set stands on the right
    our_scenes, their_scenes = _scenes(len(ours), len(theirs), touched[NEIGHBOUR], within)
    records: dict[str, Any] = {}
    for at, split in enumerate(theirs.splits):
        counts = {}
        for other_at, other in enumerate(ours.splits):
            if within and other == split:
                continue
            rows = {kind: np.unique(pairs[(theirs.split[pairs[:, 1]] == at) & (ours.split[pairs[:, 0]] == other_at), 1])
                    for kind, pairs in touched.items()}
            same = np.isin(their_scenes, our_scenes[ours.split == other_at])
            rows[SCENE] = np.flatnonzero((theirs.split == at) & same)
            counts[other] = {kind: len(numbers) for kind, numbers in rows.items()} | {
                "any": len(np.unique(np.concatenate(list(rows.values()))))}
        records[split] = {"records": int((theirs.split == at).sum()), "overlap": counts}
    return {"a": {"name": ours.name, "fingerprint": ours.info.fingerprint},
            "b": {"name": theirs.name, "fingerprint": theirs.info.fingerprint},
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "pairs": {pairs.kind: len(_of_two_splits(pairs, ours, theirs, within).rows) for pairs in found},
            "without_place": {"a": int((~ours.placed).sum()), "b": int((~theirs.placed).sum())},
            "unseen": matching.unseen(ours, theirs), "records": records}


def _scenes(ours: int, theirs: int, neighbours: np.ndarray, within: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scene of each record of both data sets as a number: a chain of neighbours is of one scene."""
    size = ours if within else ours + theirs
    left, right = neighbours[:, 0], neighbours[:, 1] + (0 if within else ours)
    scene = np.arange(size)  # becomes the least number of its chain
    while True:
        least, before = np.minimum(scene[left], scene[right]), scene.copy()
        np.minimum.at(scene, left, least)
        np.minimum.at(scene, right, least)
        scene = scene[scene]
        if np.array_equal(scene, before):
            return scene[:ours], scene[size - theirs:]


def _of_two_splits(pairs: Pairs, ours: Looks, theirs: Looks, within: bool) -> Pairs:
    """Returns the pairs of two splits if `within`; all pairs otherwise."""
    keep = (ours.split[pairs.rows[:, 0]] != theirs.split[pairs.rows[:, 1]]) | (not within)
    return Pairs(pairs.kind, pairs.rows[keep], pairs.scores[keep])


def _rows(pairs: Pairs, ours: Looks, theirs: Looks) -> Iterator[dict[str, Any]]:
    """Yields the pairs as JSON values."""
    for (one, other), score in zip(pairs.rows.tolist(), pairs.scores.tolist(), strict=True):
        measure = "correlation" if score <= 1 and pairs.kind != matching.FOOTPRINT else "metres"
        yield {"kind": pairs.kind, "a": {"id": ours.ids[one], "split": ours.splits[ours.split[one]]},
               "b": {"id": theirs.ids[other], "split": theirs.splits[theirs.split[other]]}, measure: round(score, 3)}


def _measure(row: Mapping[str, Any]) -> str:
    return f"{row['metres']:.0f} m apart" if "metres" in row else f"correlation {row['correlation']:.2f}"


def _picture(found: Sequence[Pairs], ours: Looks, theirs: Looks) -> bytes:
    """Returns a PNG of the first pairs of each kind; b'' if there is no pair."""
    grid: list[list[np.ndarray]] = []
    our_images, their_images = Images(ours), Images(theirs)
    for pairs in found:
        chosen = pairs.rows[:_COLUMNS].tolist()
        for side, (looks, images) in enumerate(((ours, our_images), (theirs, their_images))):
            if chosen:
                feature, spec = next(iter(sorted(looks.info.sensors.items(), key=lambda item: item[1].modality)))
                grid.append([pictures.image_to_rgb(images.record(pair[side])[feature], spec) for pair in chosen])
    if not grid:
        return b""
    png = io.BytesIO()
    pictures.grid(grid, _TILE).save(png, "PNG")
    return png.getvalue()


def _check_places(paths: Sequence[epath.PathLike]) -> None:
    """Raises UserError unless all files can be written, before the long work."""
    for path in map(os.fspath, paths):
        if "://" in path:
            raise UserError(f"'{path}' is in a bucket; copy the data set to a folder, audit it there, and copy "
                            f"{stored.FILE} back")
    for folder in (os.fspath(paths[-2]), os.path.dirname(os.fspath(paths[-1])) or "."):
        if os.path.exists(folder) and not os.access(folder, os.W_OK) or not os.path.isdir(folder):
            raise UserError(f"cannot write to the folder '{folder}'; name a folder that exists and is writable")
