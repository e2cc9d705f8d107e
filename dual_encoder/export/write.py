"""Writes an export: the files of its format, the card, sample images for the proof, and digests."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from dual_encoder.errors import UserError
from dual_encoder.export import card, samples
from dual_encoder.export.folder import Exported, write_folder
from dual_encoder.export.formats import FORMATS
from dual_encoder.export.source import Source
from dual_encoder.workdir.folder import read_json, versions
from dual_encoder.workdir.scores import read_scores


def export(source: Source, out: str | os.PathLike, format: str = "timm", data_dir: str = "",
           results: Mapping[str, Any] | None = None) -> Exported:
    """Writes a source to the folder `out`.

    Args:
      source: the checkpoint, and what to export of it.
      out: a local folder; made if needed. An earlier export in it is replaced.
      format: a key of FORMATS.
      data_dir: folder of the data set, for two sample images; '' takes that of the run. If the run's own cannot be
        read, the export has no sample images, and the note says so.
      results: as `results_of` returns them.

    Returns:
      the files and a note.

    Raises:
      UserError: the checkpoint has no such model; `data_dir` cannot be read; `out` holds something else; the disk
        refuses.
    """
    content = FORMATS[format].write(source)
    notes, taken = [content.note], None
    try:
        taken = samples.take(source, content, data_dir or _data_of(source))
    except UserError as error:
        if data_dir:
            raise
        notes.append(f"without sample images, so --check cannot prove parity ({error}); give --data=FOLDER")
    results = results or {"versions": versions()}
    files = dict(content.files)
    if taken:
        files[samples.NAME] = samples.to_bytes(taken)
    files["README.md"] = card.write(source, content, taken, results).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    values = card.facts(source, content, taken, results, format, digests)
    files["card.json"] = (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
    return Exported(write_folder(pathlib.Path(out), files), "; ".join(filter(None, notes)))


def results_of(workdir: str | os.PathLike) -> dict[str, Any]:
    """Returns the last scores of a run by their paths, their step and command, and the versions of this process."""
    folder, found = epath.Path(workdir), {"versions": versions()}
    try:
        scores = read_scores(folder)
    except FileNotFoundError:
        return found
    step = scores.pop("step")
    run = read_json(folder / "run.json") if (folder / "run.json").exists() else {}
    return {"scores": scores, "step": step, "command": str(run.get("command", "")), **found}


def _data_of(source: Source) -> str:
    """Returns the data folder of the run."""
    folder = source.model.config.get("data", {}).get("dir", "")
    if not folder:
        raise UserError("the run names no data set")
    return folder
