"""The part of the records that a subset names: to learn from, and to evaluate on."""

import numpy as np

from dual_encoder.data.records import Records
from dual_encoder.data.subsets import SubsetConfig, fold_rows, fraction_rows, groups_of
from dual_encoder.imagery.sensors import IGNORED


def select(records: Records, subset: SubsetConfig) -> tuple[Records, Records | None]:
    """Returns the records to learn from, and those of the fold that is held out (None without folds).

    It reads every record once, unless the subset is the whole.

    Raises:
      UserError: a fold or a fraction without a place, a group file that lacks one, a damaged record.
    """
    if subset.folds == 0 and subset.fraction == 1:
        return records, None
    places, classes = _facts(records)
    learnt, held = np.arange(len(records)), None
    if subset.folds:
        learnt, held = fold_rows(groups_of(places, subset.groups), subset.folds, subset.fold, subset.seed)
    rows = fraction_rows([places[row] for row in learnt], classes[learnt], subset.fraction, subset.seed)
    return records.only(learnt[rows]), None if held is None else records.only(held)


def hold_out(records: Records, subset: SubsetConfig, parts: int = 5) -> tuple[Records, Records]:
    """Returns (the records to learn from, the records to choose on): one of `parts` of the places is held out.

    Groups and seed are those of the subset, so that the choice is as far from the training places as a fold is.

    Args:
      records: that `select` leaves to learn from.
      subset: of the configuration.
      parts: their number.

    Raises:
      UserError: fewer groups than parts, a group file that lacks a place, a damaged record.
    """
    learnt, held = fold_rows(groups_of(_facts(records)[0], subset.groups), parts, 0, subset.seed)
    return records.only(learnt), records.only(held)


def _facts(records: Records) -> tuple[list[str], np.ndarray]:
    """Returns the location_id of each record, and bool [records, classes]: the classes that it holds."""
    label = records.info.label if "label" in records.features else None
    places, classes = [], np.zeros((len(records), len(label.classes) if label else 0), bool)
    tensor = records.info.tensors["label"] if label else None
    for number in range(len(records)):
        value = np.zeros(tensor.shape, tensor.dtype) if tensor else None
        rows = {} if value is None else {b"label": value.reshape(-1).view(np.uint8)}
        _, place = records.read_into(number, rows)
        places.append(place.decode())
        if label and value is not None and label.kind == "image_classes":
            classes[number] = value > 0
        elif label and value is not None and label.classes:
            classes[number, np.unique(value[value != IGNORED] if label.per_pixel else value)] = True
    return places, classes
