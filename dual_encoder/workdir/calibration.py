"""The calibration of a segmentation run, WORKDIR/calibration.json: a temperature, and the errors of areas.

`python -m dual_encoder.calibrate` writes it, for one checkpoint. `predict` and the report read it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from etils import epath

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.evaluation.area_errors import AreaErrors
from dual_encoder.evaluation.calibration import Reliability
from dual_encoder.workdir import digests
from dual_encoder.workdir.folder import read_json, write_json

NAME = "calibration.json"


@dataclasses.dataclass(frozen=True)
class ImageShares:
    """The shares of the classes in one image, of its labelled pixels.

    Attributes:
      id, place: of the record; the place is the group that it is held out with.
      true, mapped: of each class, in [0, 1].
    """

    id: str
    place: str
    true: tuple[float, ...]
    mapped: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured on labelled images that the run has not learnt from.

    Attributes:
      model: digest of the parameters and sensors, as of `Segmenter`.
      step: of the checkpoint.
      images: names of the images that the model read ('s1', ...).
      classes: names.
      fingerprint: of the data set.
      data: name, config and version of the data set, and the split or fold.
      records: how many images there were.
      pixels: labelled pixels that the temperature and the bins are from.
      temperature: the logits are divided by it.
      before, after: the bins without and with the temperature.
      areas: errors of the shares of classes in squares, the largest first.
      shares: of images, evenly spaced, for a picture.
    """

    model: str
    step: int
    images: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str
    data: str
    records: int
    pixels: int
    temperature: float
    before: Reliability
    after: Reliability
    areas: tuple[AreaErrors, ...]
    shares: tuple[ImageShares, ...]


def write(workdir: epath.PathLike, calibration: Calibration) -> None:
    """Writes WORKDIR/calibration.json and its digest; after a crash it is complete or absent."""
    write_json(epath.Path(workdir), NAME, dataclasses.asdict(calibration))


def read(workdir: epath.PathLike) -> Calibration | None:
    """Returns the calibration of a run; None if there is none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    fault = digests.fault(workdir, NAME)
    try:
        values: Any = read_json(path)
        found: Calibration = parse(Calibration, values, stored=True)
    except UserError as error:
        raise UserError(f"'{path}' is damaged ({fault or error}); run python -m dual_encoder.calibrate again"
                        ) from error
    if fault:
        raise UserError(f"'{path}': {fault}; run python -m dual_encoder.calibrate again")
    return found


def of_model(workdir: epath.PathLike, model: str, images: Sequence[str]) -> tuple[Calibration | None, str]:
    """Returns the calibration of a model, or None and one line that says why there is none.

    Args:
      workdir: of the run; '' = none.
      model: digest of the model, as of `Segmenter`.
      images: names of the images that it reads.
    """
    if not workdir:
        return None, "not calibrated"
    command = f"python -m dual_encoder.calibrate --workdir={workdir}"
    try:
        found = read(workdir)
    except UserError as error:
        return None, str(error)
    if found is None:
        return None, f"not calibrated: '{workdir}' has no {NAME}; {command} makes it"
    if found.model != model:
        return None, (f"not calibrated: {NAME} of '{workdir}' is of another checkpoint (step {found.step}, digest "
                      f"{found.model[:12]}; this one has {model[:12]}); {command} makes it anew")
    if set(found.images) != set(images):
        return None, (f"not calibrated: {NAME} of '{workdir}' is of {' and '.join(found.images)}, this map of "
                      f"{' and '.join(images)}")
    return found, ""
