"""The settings of reading a data set."""

import dataclasses
from typing import Annotated

from dual_encoder.config import AtLeast, Before, IsPath, require
from dual_encoder.data.subsets import WHOLE, SubsetConfig

AUTO = "auto"
HELD_OUT = "held_out"  # in place of the name of a split: a part of the places to learn from
IMPORTED = "(imported weights)"  # in place of the folder of a run whose training data are not here


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which records are read, and how.

    Attributes:
      dir: data set folder made by `python -m data_prep build` (it holds manifest.json), local or in a bucket; several
        folders joined by ',' are mixed. A run of imported weights has none, but IMPORTED.
      split: split to train on; 'train+validation' joins two.
      weights: share of each folder of `dir` in the batches, in any unit; () mixes them in proportion to their records.
      eval_split: split to evaluate on, of all folders that have it.
      select_split: split to choose the checkpoint on: the state with the best headline score there is evaluated on
        `eval_split`, once, at the end. 'held_out': a fifth of the places (or of what `subset.groups` holds together)
        that `split` and `subset` leave to learn from; they are then not learnt from. '' = the last state is evaluated.
        'auto' = 'validation' if the data set has it and it is used for nothing else, else ''.
      subset: a fraction of the places of `split`, or folds of it.
      statistics: JSON file of `python -m data_prep stats`; '' takes the statistics of the data set's sensors.
      threads: reading threads per process; from a bucket, the range requests under way at once.
      processes: reading processes per host; 0 reads in the training process. Batches pass through /dev/shm.
      max_bad_records: how many damaged records of a split may be replaced by the next sound one before a process stops;
        0 stops at the first.
    """

    dir: Annotated[str, IsPath((IMPORTED,), several=True)]
    split: str
    weights: Annotated[tuple[float, ...], Before(())]
    eval_split: str
    select_split: Annotated[str, Before("")]
    subset: Annotated[SubsetConfig, Before(WHOLE)]
    statistics: Annotated[str, IsPath()]
    threads: Annotated[int, AtLeast(1)]
    processes: Annotated[int, AtLeast(0), Before(0)]
    max_bad_records: Annotated[int, AtLeast(0), Before(0)]

    def check(self, path: str) -> None:
        """Raises UserError without a folder."""
        require(self.dir != "", f"{path}.dir", self.dir, "a data set folder made by `python -m data_prep build`")
        for key, value in (("split", self.split), ("eval_split", self.eval_split)):
            shared = set(self.select_split.split("+")) & set(value.split("+")) - {""}
            require(not shared, f"{path}.select_split", self.select_split,
                    f"a split that is not in {path}.{key}, {value!r}: a choice on it would favour what is scored; or "
                    f"'{HELD_OUT}'")
