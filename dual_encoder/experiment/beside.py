"""Results of torchgeo-bench, shown beside those of an experiment: each row has its protocol, and none is averaged.

The columns are those of `EvaluationResult` in torchgeo_bench/main.py, version 0.4.0 (its page 'Results format').
"""

import csv
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Mapping

from dual_encoder.errors import UserError, one_line

_NEEDED = ("dataset", "method", "metric_name", "metric_value", "name")
_SCORES = re.compile(r"knn\d+|linear|seg-[\w-]+")  # other methods measure time, memory and dimensions


@dataclasses.dataclass(frozen=True)
class OtherScore:
    """One row of torchgeo-bench.

    Attributes:
      dataset, method, metric, name: as there: 'm-eurosat', 'linear', 'accuracy', name of the model.
      value: the score; NaN if it failed.
      interval: 95 % by bootstrap of the test images, or ().
      images: number of test images; '' if it is not stated.
      seed: of the run.
      fraction: share of the training images.
      protocol: what two rows must have in common to be comparable.
    """

    dataset: str
    method: str
    metric: str
    name: str
    value: float
    interval: tuple[float, ...]
    images: str
    seed: str
    fraction: float
    protocol: str


def read(files: Iterable[pathlib.Path]) -> list[OtherScore]:
    """Returns the scores of some files, in their order; rows that are no scores are left out.

    Raises:
      UserError: a file cannot be read, lacks a column, holds a value that is no number, or no score.
    """
    return [score for file in files for score in _of_file(file)]


def _of_file(file: pathlib.Path) -> list[OtherScore]:
    scores = []
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            rows = csv.DictReader(lines, strict=True)
            missing = [name for name in _NEEDED if name not in (rows.fieldnames or ())]
            if missing:
                raise UserError(f"--beside='{file}' lacks the columns {', '.join(missing)}, which results of "
                                "torchgeo-bench have; give a file that `torchgeo-bench run` has written")
            for row in rows:
                if _SCORES.fullmatch(row["method"] or ""):
                    scores.append(_score(row, file, rows.line_num))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--beside='{file}' cannot be read as CSV ({one_line(error)}); give a file that "
                        "`torchgeo-bench run` has written") from error
    if not scores:
        raise UserError(f"--beside='{file}' holds no row of the methods knn, linear or seg; give a file of "
                        "results/models/ of torchgeo-bench")
    return scores


def _score(row: Mapping[str, str], file: pathlib.Path, line: int) -> OtherScore:
    def number(key: str, default: float) -> float:
        text = row.get(key) or ""
        try:
            return float(text) if text else default
        except ValueError as error:
            raise UserError(f"--beside='{file}', line {line}: {key} is '{text}', expected a number; mend the line or "
                            "leave it out") from error

    low, high = number("ci_lower", 0.0), number("ci_upper", 0.0)
    partition, size = row.get("partition") or "default", number("image_size", math.nan)
    share = re.match(r"([\d.]+)x", partition)
    parts = [row["method"], f"{row.get('bands') or 'unknown'} bands",
             "native size" if math.isnan(size) else f"{size:g} px", f"normalization {row.get('normalization') or '?'}"]
    if partition != "default":
        parts.append(f"partition {partition}")
    return OtherScore(row["dataset"], row["method"], row["metric_name"], row["name"], number("metric_value", math.nan),
                      (low, high) if low or high else (), row.get("n_test") or "", row.get("seed") or "",
                      float(share[1]) if share else 1.0, f"torchgeo-bench: {', '.join(parts)}")
