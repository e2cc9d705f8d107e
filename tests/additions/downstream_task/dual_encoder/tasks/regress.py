"""A toy task: a number for each image."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.augment import augment, record_keys
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.evaluation.number import evaluate_number
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.classification import ClassificationModel
from dual_encoder.tasks.downstream import DownstreamConfig, with_encoders


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegressConfig(DownstreamConfig):
    """Regression: a number for each image."""

    task: Literal["regress"] = "regress"


class Regress:
    """A linear layer on encoders; the loss is the squared error. See `Classify` for the arguments."""

    def __init__(self, config: RegressConfig, sensors: Mapping[str, SensorSpec], records: Records | Shapes,
                 pretrained: Mapping[str, Any] | None):
        if records.info.label is None or records.info.label.kind != "number":
            raise UserError("regression needs labels of kind 'number'; build the data set with such labels")
        self.config, self.pretrained = config, pretrained
        self.features, self.frozen = config.features, config.frozen_parameters
        self.sensors = {name: sensors[name] for name in config.sensors}
        self.model = ClassificationModel(config.sensors, config.encoder, 1, config.frozen)

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats); see `Task`."""
        images = {name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()}
        variables = jax.jit(lambda k: self.model.init(k, images, train=True))(key)
        return with_encoders(variables, self.pretrained, self.config.sensors)

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss, (batch_stats, metrics)) of raw images; see `Task`."""
        label = batch["label"]
        images = augment({name: batch[name] for name in self.sensors}, self.sensors, self.config.augment,
                         record_keys(key, len(label)))
        output: jax.Array
        output, updated = self.model.apply({"params": params, "batch_stats": batch_stats}, images, train=True,
                                           mutable=["batch_stats"])
        error = output[:, 0] - label
        return jnp.square(error).mean(), (updated.get("batch_stats", {}), {"absolute_error": jnp.abs(error).mean()})

    def project(self, params: Any) -> Any:
        """Returns `params`: all values are allowed."""
        return params

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `prediction`, float32 [batch], and `label` as in the batch."""
        images = {name: normalise(batch[name], spec) for name, spec in self.sensors.items()}
        output: Any = self.model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        return {"prediction": output[:, 0], "label": batch["label"]}

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Scores all images of the split together; see `Task`."""
        parts = [output for _, output in outputs]
        return evaluate_number(*(np.concatenate([part[name] for part in parts]) for name in ("label", "prediction")))
