"""Refuses a run whose test places were learnt from, in pre-training or with labels, and says what was compared."""

import functools
from collections.abc import Mapping
from typing import Any

from etils import epath

from dual_encoder.config import parse
from dual_encoder.data import overlap
from dual_encoder.data.config import IMPORTED
from dual_encoder.data.records import Records
from dual_encoder.data.selection import select
from dual_encoder.data.subsets import SubsetConfig
from dual_encoder.errors import UserError
from dual_encoder.workdir.folder import read_json

Place = tuple[str, str]  # importer and location_id


def check(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Compares the places that a run is scored on with those that it has learnt from.

    Places are the same if the same importer gives them the same location_id. `python -m data_prep overlap` compares
    data sets of different importers, by footprints.

    Args:
      values: configuration of a run with labels. Its `init_from`, if there is one, is a finished run.

    Returns:
      lines for the report: what was compared, and what the audit of the data sets found.

    Raises:
      UserError: a place that the run is scored on was learnt from.
    """
    data = values["data"]
    learnt, tested = _of_data(data)
    lines = [_compared(tested, learnt, f"split '{data['split']}' that the cell learns from")]
    if values["init_from"]:
        run = read_json(epath.Path(values["init_from"]) / "config.json")
        if run["data"]["dir"] == IMPORTED:
            return (*lines, f"the weights of '{values['init_from']}' were trained elsewhere: it is not known whether "
                    "they have seen test places")
        source = "data" if run["task"] == "pretrain" else "labelled data"
        lines.append(_compared(tested, _of_data(run["data"])[0], f"{source} of pre-training ('{run['data']['dir']}')"))
        lines += _audited(data, run["data"])
    return tuple(lines)


def _compared(tested: frozenset[Place], learnt: frozenset[Place], source: str) -> str:
    shared = sorted(tested & learnt)
    if shared:
        raise UserError(f"{len(shared)} of {len(tested)} test places are in the {source}, first '{shared[0][1]}'; hold "
                        "them out with folds and pretrain_per_fold=True, or choose other splits")
    return f"none of {len(tested)} test places is among the {len(learnt)} places of the {source}"


def _audited(data: Mapping[str, Any], trained: Mapping[str, Any]) -> list[str]:
    """Returns the lines of the overlap audits of the labelled data with the data of pre-training."""
    split = data["split"] if data["subset"]["folds"] else data["eval_split"]
    parts = Records(trained["dir"], trained["split"], (), partial=True).parts
    return overlap.lines(Records(data["dir"], split, (), partial=True),
                         [(part.info.fingerprint, part.split) for part in parts],
                         held_out=trained["subset"]["folds"] > 0)


def _of_data(data: Mapping[str, Any]) -> tuple[frozenset[Place], frozenset[Place]]:
    """Returns the places that a configuration learns from, and those that it is evaluated on."""
    subset = data["subset"] | {"fraction": 1.0, "seed": 0}  # a fraction is within the whole
    return _read(data["dir"], data["split"], data["eval_split"], tuple(sorted(subset.items())))


@functools.lru_cache(maxsize=64)
def _read(folder: str, split: str, eval_split: str, subset: tuple[tuple[str, Any], ...]
          ) -> tuple[frozenset[Place], frozenset[Place]]:
    whole = Records(folder, split, ())
    learnt, held = select(whole, parse(SubsetConfig, dict(subset), stored=True, name="config.data.subset"))
    return _places(learnt), _places(Records(folder, eval_split, (), partial=True) if held is None else held)


def _places(records: Records) -> frozenset[Place]:
    """Returns the places of records; every record is read once."""
    return frozenset(records.place(number) for number in range(len(records)))
