"""overlap.json in the folder of a data set: what audits found of its records in the data that others are trained on.

`python -m data_prep overlap A B` writes it, after the build of B. So the manifest has no digest of it: the file holds
its own, and an audit counts only for data sets with the fingerprints that it names.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.storage import atomic, files

FILE = "overlap.json"
_COMMAND = "python -m data_prep overlap"


def load(folder: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the audits of a data set, [] if there are none.

    Raises:
      UserError: the file is damaged.
    """
    path = epath.Path(folder) / FILE
    try:
        values = json.loads(files.read(path))
        if values["sha256"] != _digest(values["audits"]):
            raise ValueError("the digest differs")
        return values["audits"]
    except FileNotFoundError:
        return []
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({error}); delete it and run `{_COMMAND}` again") from error


def save(folder: epath.PathLike, audit: Mapping[str, Any]) -> None:
    """Adds an audit to those of a data set; it replaces an earlier one of the same two data sets.

    Args:
      folder: of the data set that is evaluated on.
      audit: JSON values: "a" and "b" with "name" and "fingerprint" of the data set trained on and of this one;
        "records": split of b -> {"records": their number, "overlap": split of a -> {kind: number of records, "any":
        number}}.
    """
    def pair(one: Mapping[str, Any]) -> tuple[str, str]:
        return one["a"]["fingerprint"], one["b"]["fingerprint"]

    try:
        earlier = load(folder)
    except UserError:
        earlier = []  # this audit replaces the damaged file
    audits = [one for one in earlier if pair(one) != pair(audit)] + [dict(audit)]
    text = json.dumps({"sha256": _digest(audits), "audits": audits}, indent=1) + "\n"
    atomic.write(epath.Path(folder) / FILE, text.encode())


def lines(evaluated: Records, trained: Sequence[tuple[str, str]], held_out: bool = False) -> list[str]:
    """Returns a line per split and training data set: what the audit found, or that there was none.

    Args:
      evaluated: the records of the evaluation.
      trained: fingerprint and split of each part of the training data.
      held_out: the records are a fold of these splits that the training leaves out.
    """
    result = []
    for part in evaluated.parts:
        try:
            audits = load(part.folder)
        except UserError as error:
            result.append(str(error))
            continue
        if (part.info.fingerprint, part.split) in trained:
            result.append(f"{part.split}: a fold of places that the model is not trained on; folds are not audited for "
                          "overlap" if held_out else f"{part.split}: the model is trained on these records")
            continue
        for fingerprint in dict.fromkeys(fingerprint for fingerprint, _ in trained):
            audit = next((one for one in audits if one["b"]["fingerprint"] == part.info.fingerprint
                          and one["a"]["fingerprint"] == fingerprint and part.split in one["records"]), None)
            if audit is None:
                within = fingerprint == part.info.fingerprint
                result.append(f"{part.split}: not audited for overlap with the training data; run `{_COMMAND} "
                              f"{'' if within else 'TRAINING_DATA '}{part.folder}`")
            else:
                splits = [split for other, split in trained if other == fingerprint]
                result.append(f"{part.split}: audited against {audit['a']['name']} ({fingerprint[:12]}): "
                              f"{found(audit, part.split, splits)}")
    return list(dict.fromkeys(result))


def found(audit: Mapping[str, Any], split: str, trained: Sequence[str]) -> str:
    """Returns '24 of 70 records overlap train (24 neighbour)', for each split trained on.

    Args:
      audit: as of `save`.
      split: of the data set that is evaluated on.
      trained: splits of the other data set.
    """
    facts = audit["records"][split]
    parts = []
    for other in trained:
        kinds = dict(facts["overlap"].get(other, {}))
        count = kinds.pop("any", 0)
        named = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
        parts.append(f"{count} of {facts['records']} records overlap {other}"
                     + f" ({named})" * bool(named))
    return "; ".join(parts)


def _digest(audits: Any) -> str:
    return hashlib.sha256(json.dumps(audits, sort_keys=True).encode()).hexdigest()
