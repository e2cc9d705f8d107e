"""Classification of whole images: one class per image, or each class that occurs in it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dual_encoder.augment import augment, record_keys
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.evaluation.classification import evaluate_classes, evaluate_single_class, image_values
from dual_encoder.evaluation.single_sensors import with_single_sensors
from dual_encoder.evaluation.table import Evaluation
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.classification import ClassificationModel
from dual_encoder.tasks.downstream import (
    DownstreamConfig,
    draw_available,
    normalised,
    only_available,
    per_image,
    with_encoders,
    with_sensors_alone,
)

_KINDS = ("image_class", "image_classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifyConfig(DownstreamConfig):
    """Classification of images; with several encoders, their vectors are concatenated."""

    task: Literal["classify"] = "classify"


class Classify:
    """A linear classifier on encoders: softmax for one class per image, a sigmoid per class for several.

    Args:
      config: of the run.
      sensors: spec of the images, with the statistics that the encoders were trained with.
      records: the training split; its label is of kind 'image_class' or 'image_classes'.
      pretrained: {'params', 'batch_stats'} of a pre-trained dual encoder, or None for random weights.

    Raises:
      UserError: the labels are of another kind.
    """

    def __init__(self, config: ClassifyConfig, sensors: Mapping[str, SensorSpec], records: Records | Shapes,
                 pretrained: Mapping[str, Any] | None):
        label = records.info.label
        if label is None or label.kind not in _KINDS:
            raise UserError(f"the labels of the data set are of kind '{label.kind if label else 'none'}', "
                            f"classification needs one of {', '.join(_KINDS)}; build the data set with such labels, as "
                            "--labels=land_cover of bigearthnet, or use configs/finetune.py for classes of pixels")
        self.config, self.pretrained = config, pretrained
        self.features, self.frozen = config.features, config.frozen_parameters
        self.sensors = {name: sensors[name] for name in config.sensors}
        self.classes, self.single = label.classes, label.kind == "image_class"
        self.model = ClassificationModel(config.sensors, config.encoder, len(self.classes), config.frozen,
                                         config.fusion, config.fixed_stages)

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats); see `Task`."""
        images = {name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()}
        variables = jax.jit(lambda k: self.model.init(k, images, train=True))(key)
        return with_encoders(variables, self.pretrained, self.config.encoders)

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss, (batch_stats, metrics)) of raw images; see `Task`."""
        label = batch["label"]
        keys = record_keys(key, len(label))
        images = augment({name: batch[name] for name in self.sensors}, self.sensors, self.config.augment, keys)
        available = draw_available(keys, len(self.config.encoders), self.config.sensor_dropout)
        logits: jax.Array
        logits, updated = self.model.apply({"params": params, "batch_stats": batch_stats}, images, True, available,
                                           mutable=["batch_stats"])
        if self.single:
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            right = jnp.argmax(logits, axis=-1).astype(label.dtype) == label
        else:
            loss = optax.sigmoid_binary_cross_entropy(logits, label.astype(jnp.float32)).mean()
            right = (logits > 0) == (label > 0)
        return loss, (updated.get("batch_stats", {}), {"accuracy": right.mean(dtype=jnp.float32)})

    def project(self, params: Any) -> Any:
        """Returns `params`: all values are allowed."""
        return params

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array],
                available: Sequence[str] = ()) -> dict[str, jax.Array]:
        """Returns `probability`, float32 [batch, classes], and `label` as in the batch.

        A run with config.sensor_dropout also returns `probability_<sensor>` of each sensor alone.

        Args:
          params, batch_stats, batch: as of `Task`.
          available: with config.sensor_dropout, the sensors to predict from; the batch may lack the others. () = all.
        """
        images = normalised(batch, self.sensors, available)

        def predict(sensors):
            given = only_available(self.config.encoders, sensors, len(batch["label"]))
            logits: Any = self.model.apply({"params": params, "batch_stats": batch_stats}, images, False, given)
            return jax.nn.softmax(logits) if self.single else jax.nn.sigmoid(logits)

        return {"label": batch["label"]} | with_sensors_alone("probability", predict, self.config, available)

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Scores all images of the split together, and with each sensor alone; see `Task`."""
        parts = [output | {"number": numbers} for numbers, output in outputs]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        evaluate = evaluate_single_class if self.single else evaluate_classes
        kind, values = image_values(columns["label"], columns["probability"])
        whole = dataclasses.replace(
            evaluate(columns["label"], columns["probability"], self.classes),
            per_image={"classification": per_image(records, columns["number"].tolist(), kind, self.classes, values)})
        return with_single_sensors(whole, {
            name: evaluate(columns["label"], columns[f"probability_{name}"], self.classes).tables[0]
            for name in self.config.alone})
