"""The proof of an export: its files are whole, and its own runtime computes what our model computes."""

import importlib.util
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from dual_encoder.errors import UserError, one_line
from dual_encoder.export import folder as folders
from dual_encoder.export import samples
from dual_encoder.export.formats import FORMATS
from dual_encoder.export.shipped import copies
from dual_encoder.storage import sums

LIMIT = 1e-5  # of max |theirs - ours| / max |ours| in float32: some 80 rounding steps


class Check(NamedTuple):
    """The result of one export.

    Attributes:
      folder: of the export.
      format: its name; '' if an earlier version wrote it.
      files: names of its files, all sound.
      differences: output -> max |theirs - ours| / max |ours|.
      reason: why nothing was compared; '' if something was.
    """

    folder: pathlib.Path
    format: str
    files: list[str]
    differences: dict[str, float]
    reason: str

    @property
    def passed(self) -> bool:
        """True if all outputs were compared and none differs by more than LIMIT."""
        return bool(self.differences) and all(value <= LIMIT for value in self.differences.values())


def exports_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the folder if it is an export itself, else the exports among the folders in it."""
    folder = pathlib.Path(folder)
    inside = [] if (folder / sums.NAME).exists() else sorted(path.parent for path in folder.glob("*/card.json"))
    return inside or [folder]


def relative_difference(theirs: np.ndarray, ours: np.ndarray) -> float:
    """Returns max |theirs - ours| / max |ours|; infinity if the shapes differ or a value is not finite."""
    if np.shape(theirs) != ours.shape or not np.isfinite(theirs).all():
        return float("inf")
    return float(np.abs(np.asarray(theirs, np.float64) - ours).max() / max(np.abs(ours).max(), 1e-30))


def check(folder: pathlib.Path) -> Check:
    """Checks one export.

    Raises:
      UserError: there is no export, or it is damaged.
    """
    files = folders.check(folder)
    if "card.json" not in files:
        return Check(folder, "", files, {}, "an earlier version wrote it, without sample images; export it again")
    try:
        card = json.loads((folder / "card.json").read_bytes())["dual_encoder"]
        name, outputs = card["format"], set(card["outputs"])
        format = FORMATS[name]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder / 'card.json'}' is no card of a format of this version ({one_line(error)}); export "
                        "again") from error
    if samples.NAME not in files:
        return Check(folder, name, files, {}, "it holds no sample images; export it again with --data=FOLDER")
    missing = [package for package in format.packages if importlib.util.find_spec(package) is None]
    if missing:
        return Check(folder, name, files, {}, f"{', '.join(missing)} missing in this interpreter; run "
                     "`pip install 'dual_encoder[runtimes]'` (torchgeo-bench needs Python 3.12, PANGAEA-bench its "
                     "repository)")
    for file, own in copies(format.code).items():
        if file not in files or (folder / file).read_bytes() != own:
            return Check(folder, name, files, {}, f"its {file} is not the code that this version writes, so it was "
                         "not run; export it again")
    images, ours = samples.read(folder)
    theirs = format.load(str(folder))(images)
    return Check(folder, name, files, {output: relative_difference(np.asarray(theirs[output]), ours[output])
                                       if output in theirs else float("inf") for output in sorted(outputs)}, "")
