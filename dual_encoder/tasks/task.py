"""The functions of a task, and the configuration that all tasks share."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Protocol

import jax
import numpy as np

from dual_encoder.augment import AugmentConfig
from dual_encoder.config import AtLeast, AtMost, Before, require
from dual_encoder.data.config import AUTO, DataConfig
from dual_encoder.data.records import Records
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.optim.optimizer import OptimizerConfig, RateFactor
from dual_encoder.workdir.sinks import SinkName

_STEPS = 2**31 - 1  # a step counter of JAX has 32 bits


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How long a run is, and how often it logs, evaluates and saves.

    Attributes:
      epochs: passes over the data; the last incomplete batch of a pass is left out.
      steps: number of steps; when not 0 it counts instead of epochs.
      log_every, eval_every, checkpoint_every: in steps; 0 leaves only the end of the run.
      quick_eval_every: in steps, and at the end; a part of the evaluation split is scored for the curves. 0 is off.
      quick_eval_records: number of records of that part, evenly spaced; all of them if there are fewer.
      train_eval_records: with eval_every, so many training records are scored at each evaluation, too, for the curves,
        but no more than the evaluation split has; 0 is off. A model that overfits scores better on them.
      keep: checkpoints kept, newest first.
      log_to: 'wandb' or 'mlflow' get the metrics, too; '' = the workdir alone. See workdir/sinks.py.
    """

    epochs: Annotated[int, AtLeast(0)]
    steps: Annotated[int, AtLeast(0), AtMost(_STEPS)]
    log_every: Annotated[int, AtLeast(0)]
    eval_every: Annotated[int, AtLeast(0)]
    quick_eval_every: Annotated[int, AtLeast(0), Before(0)]
    quick_eval_records: Annotated[int, AtLeast(1), Before(1024)]
    train_eval_records: Annotated[int, AtLeast(0), Before(0)]
    checkpoint_every: Annotated[int, AtLeast(0)]
    keep: Annotated[int, AtLeast(1)]
    log_to: Annotated[SinkName, Before("")]

    def check(self, path: str) -> None:
        """Raises UserError for a run of no step."""
        require(self.steps + self.epochs >= 1, f"{path}.epochs", self.epochs, "at least 1 (or schedule.steps)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """The configuration that all trained tasks share.

    Attributes:
      seed: of the weights, the order of the records and the augmentations.
      batch_size: of the global batch, over all devices of all hosts.
      inputs: the sensors that are read, joined by '+': 's1', 's2' or 's1+s2'.
      sizing: 'fixed', or 'auto': encoder, crop, batch, schedule and splits follow from the data and the device
        (`sizing.sizes`), except the keys that the user gives.
      data, encoder, augment, optimizer, schedule: the groups; each is described at its class.
    """

    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)]  # JAX's keys have 32 bits
    batch_size: Annotated[int, AtLeast(1)]
    inputs: str
    sizing: Annotated[Literal["fixed", "auto"], Before("fixed")]
    data: DataConfig
    encoder: AnyEncoder
    augment: AugmentConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig

    @property
    def sensors(self) -> tuple[str, ...]:
        """The names in `inputs`."""
        return tuple(self.inputs.split("+"))

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that the task reads."""
        return self.sensors

    def check(self, path: str) -> None:
        """Raises UserError when two groups do not fit together."""
        check_inputs(self.inputs, path)
        require(self.data.select_split in ("", AUTO) or self.schedule.eval_every > 0, f"{path}.schedule.eval_every",
                self.schedule.eval_every, f"more than 0 with {path}.data.select_split: the states to choose from")
        self.encoder.check_crop(self.augment.crop)

    def micro_batch_rows(self) -> int:
        """Returns how many rows are computed at one time, over all devices; 0: the whole batch."""
        return 0

    def rate_factor(self) -> RateFactor | None:
        """Returns path of a parameter -> factor of its learning rate; None: 1 for all of them."""
        return None


def check_inputs(inputs: str, path: str) -> None:
    """Raises UserError unless `inputs` of the configuration `path` names sensors, each once."""
    names = inputs.split("+")
    require(all(names) and len(set(names)) == len(names), f"{path}.inputs", inputs,
            "sensors of the data set joined by '+', such as s1, s2 or s1+s2")


def check_start(init_from: str, statistics: str, path: str) -> None:
    """Raises UserError if the configuration `path` starts from a checkpoint, but names statistics of its own."""
    require(not init_from or statistics == "", f"{path}.data.statistics", statistics,
            f"'' with {path}.init_from: an encoder keeps the statistics that it was trained with")


class Task(Protocol):
    """The functions that the trainer calls. They are written for the global batch."""

    @property
    def features(self) -> tuple[str, ...]:
        """Tensors of a record that a batch holds."""

    @property
    def sensors(self) -> Mapping[str, SensorSpec]:
        """Specs of the images among the features, with the statistics in use."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Top-level names of the parameters that never change."""

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats)."""

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss [] float32, (new batch_stats, metrics)); pure."""

    def project(self, params: Any) -> Any:
        """Returns the parameters moved into their allowed range, after an update; pure."""

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns outputs per row, in evaluation mode; pure."""

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Scores the outputs of a whole split.

        Args:
          outputs: yields (record numbers int32 [rows], outputs per row, as `predict` returns them), in order.
          records: the split.

        Returns:
          The scores as tables, and pictures.

        Raises:
          UserError: outputs that cannot be scored, as embeddings that are not finite.
        """
