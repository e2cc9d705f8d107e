"""The part of the records that a subset names: to learn from, and to evaluate on."""

import math

import numpy as np

from dual_encoder.data.records import Records
from dual_encoder.data.subsets import SubsetConfig, fold_rows, fraction_rows, groups_of, validation_rows
from dual_encoder.imagery.sensors import IGNORED

_KEPT = 1 << 28  # bytes of labels that stay in memory, for those who need them next


def select(records: Records, subset: SubsetConfig) -> tuple[Records, Records | None]:
    """Returns the records to learn from, and those that are held out: a fold, or the part to choose on; else None.

    It reads every record once, unless the subset is the whole.

    Raises:
      UserError: a fold or a fraction without a place, a group file that lacks one, a damaged record.
    """
    if subset.folds == 0 and subset.fraction == 1 and not subset.validate:
        return records, None
    learnt, held = select_rows(records, subset)
    return records.only(learnt), None if held is None else records.only(held)


def select_rows(records: Records, subset: SubsetConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the numbers of the records that `select` returns, int64."""
    places, classes = _facts(records)
    groups = groups_of(places, subset.groups) if subset.folds or subset.validate else places
    learnt, held = np.arange(len(records)), None
    if subset.folds:
        learnt, held = fold_rows(places, groups, subset.folds, subset.fold)
    if subset.validate:
        rest, chosen_on = validation_rows(_of(places, learnt), _of(groups, learnt))
        learnt, held = learnt[rest], learnt[chosen_on]
    rows = fraction_rows(_of(places, learnt), classes[learnt], subset.fraction, subset.seed)
    return learnt[rows], held


def hold_out(records: Records, groups: str) -> tuple[np.ndarray, np.ndarray]:
    """Divides records into those to learn from and those to choose settings on, about one group of five.

    Args:
      records: that `select` leaves to learn from.
      groups: as in `SubsetConfig`; if all records are of one group, places are divided.

    Returns:
      (numbers of the records to learn from, numbers of those to choose on), int64.

    Raises:
      UserError: all records are of one place.
    """
    places = records.location_ids
    of_groups = groups_of(places, groups)
    return validation_rows(places, of_groups if len(set(of_groups)) > 1 else places)


def _of(values: list[str], rows: np.ndarray) -> list[str]:
    return [values[row] for row in rows]


def record_groups(records: Records, groups: str) -> np.ndarray:
    """Returns the number of each record's group, int64 [records]; `groups` as in `SubsetConfig`.

    Raises:
      UserError: a group file that lacks a place, a damaged record.
    """
    return np.unique(groups_of(records.location_ids, groups), return_inverse=True)[1]


def _facts(records: Records) -> tuple[list[str], np.ndarray]:
    """Returns the location_id of each record, and bool [records, classes]: the classes that it holds."""
    label = records.info.label if "label" in records.features else None
    if label is None or not label.classes:
        return records.location_ids, np.zeros((len(records), 0), bool)
    if label.kind == "image_classes":
        classes = records.labels > 0
        return records.location_ids, classes
    tensor = records.info.tensors["label"]
    classes = np.zeros((len(records), len(label.classes)), bool)
    if math.prod(tensor.shape) * len(records) <= _KEPT:
        for number, value in enumerate(records.labels):
            classes[number, np.unique(value[value != IGNORED] if label.per_pixel else value)] = True
        return records.location_ids, classes
    places, value = [], np.zeros(tensor.shape, tensor.dtype)
    for number in range(len(records)):
        places.append(records.read_into(number, {b"label": value.reshape(-1).view(np.uint8)})[1].decode())
        classes[number, np.unique(value[value != IGNORED])] = True
    return places, classes
