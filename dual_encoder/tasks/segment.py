"""Segmentation fine-tuning: encoders from a pre-training checkpoint (or from scratch) under a decoder."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.augment import augment, record_keys
from dual_encoder.config import AtLeast, Before, require
from dual_encoder.data.order import permutation
from dual_encoder.data.records import Records
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation import (
    confusion_matrix,
    evaluate_segmentation,
    segmentation_scores,
    segmentation_tables,
)
from dual_encoder.evaluation.single_sensors import with_single_sensors
from dual_encoder.evaluation.table import Evaluation, join
from dual_encoder.evaluation.worst_images import WorstImages
from dual_encoder.imagery.sensors import IGNORED, SensorSpec, before, dates
from dual_encoder.losses.segmentation import cross_entropy, soft_dice
from dual_encoder.models.decoders import Decoder
from dual_encoder.models.fusion import Change
from dual_encoder.models.segmentation import SegmentationModel
from dual_encoder.tasks.downstream import (
    DownstreamConfig,
    draw_available,
    keeps_predictions,
    normalised,
    only_available,
    per_image,
    with_encoders,
    with_sensors_alone,
)
from dual_encoder.tasks.windows import in_windows

_PANEL_ROWS = 8
_WEIGHT_TILES = 2000  # tiles that class weights are estimated from; more until every class was seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentConfig(DownstreamConfig):
    """Segmentation on labelled tiles; with several encoders, their features are concatenated per level.

    Attributes:
      decoder: 'unet'; 'fpn', a feature pyramid network; 'linear', a linear probe of the maps.
      decoder_width: channels of the last level of 'unet'; each level below has twice as many. 'fpn' has 4 times as many
        everywhere; 'linear' has none.
      class_weights: 'none', or 'inverse' (one over the class's pixel share in 2,000 random training tiles, mean 1).
      focal_gamma: exponent of the focal loss (Lin et al. 2017); 0 is the cross-entropy.
      dice: weight of a soft Dice term (Milletari et al. 2016) that is added; 0 is off.
      change: 'none'; otherwise the task also reads `<sensor>_before` for each sensor of `inputs`. The sensor's encoder
        sees both dates, and their maps are combined: 'difference', after - before; 'concatenation', after, before and
        after - before.
      window: predict in windows of this side in pixels, which overlap; for images that are larger than augment.crop.
        0 = the whole image at once.
      overlap: share of a window that the next one covers, too, in [0, 1).
    """

    task: Literal["finetune"] = "finetune"
    decoder: Annotated[Decoder, Before("unet")]
    decoder_width: Annotated[int, AtLeast(1)]
    class_weights: Literal["none", "inverse"]
    focal_gamma: Annotated[float, AtLeast(0), Before(0.0)]
    dice: Annotated[float, AtLeast(0), Before(0.0)]
    change: Annotated[Change, Before("none")]
    window: Annotated[int, AtLeast(0), Before(0)]
    overlap: Annotated[float, AtLeast(0), Before(0.5)]

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that the task reads."""
        earlier = () if self.change == "none" else tuple(map(before, self.sensors))
        return (*self.sensors, *earlier, "label")

    def check(self, path: str) -> None:
        """Raises UserError for an overlap with which windows would not move on."""
        super().check(path)
        require(self.overlap < 1, f"{path}.overlap", self.overlap, "a share in [0, 1)")


class Segment:
    """Per-pixel classification of tiles.

    Args:
      config: of the run.
      sensors: spec of the images, with the statistics that the encoders were trained with.
      records: the training split.
      pretrained: {'params', 'batch_stats'} of a pre-trained dual encoder, or None for random weights.

    Raises:
      UserError: the data set has no labels, or its two dates are of different sensors; the checkpoint holds another
        encoder.
    """

    def __init__(self, config: SegmentConfig, sensors: Mapping[str, SensorSpec], records: Records | Shapes,
                 pretrained: Mapping[str, Any] | None):
        label = records.info.label
        if label is None or not label.per_pixel:
            raise UserError(f"the labels of the data set are of kind '{label.kind if label else 'none'}', segmentation "
                            "needs a class for each pixel; use configs/classify.py for labels of whole images")
        self.config, self.pretrained = config, pretrained
        self.inputs, self.features = config.sensors, config.features
        self.sensors = {name: sensors[name] for name in self.inputs}
        if config.change != "none":
            for name in self.inputs:
                self.sensors[name].check_matches(records.info.sensors[before(name)], f"'{before(name)}'", f"'{name}'")
            self.sensors |= {before(name): self.sensors[name] for name in self.inputs}
        self.frozen = config.frozen_parameters
        self.classes, self.colours = records.info.classes, label.colours
        self.class_weights = _class_weights(config, records, len(self.classes))
        self.model = SegmentationModel(self.inputs, config.encoder, config.decoder, config.decoder_width,
                                       len(self.classes), config.frozen, config.change, config.fusion,
                                       config.fixed_stages)

    def init(self, key: jax.Array) -> tuple[Any, Any]:
        """Returns (params, batch_stats); see `Task`."""
        images = {name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()}
        variables = jax.jit(lambda k: self.model.init(k, self._dates(images), train=True))(key)
        return with_encoders(variables, self.pretrained, self.config.encoders)

    def loss(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], key: jax.Array
             ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Returns (loss, (batch_stats, metrics)) of raw tiles; see `Task`."""
        keys = record_keys(key, len(batch["label"]))
        images = augment({name: batch[name] for name in self.features}, self.sensors, self.config.augment, keys)
        label = images.pop("label")
        available = draw_available(keys, len(self.config.encoders), self.config.sensor_dropout)
        logits: jax.Array
        logits, updated = self.model.apply({"params": params, "batch_stats": batch_stats}, self._dates(images), True,
                                           available, mutable=["batch_stats"])
        loss = cross_entropy(logits, label, jnp.asarray(self.class_weights), IGNORED, self.config.focal_gamma)
        if self.config.dice:
            loss += self.config.dice * soft_dice(logits, label, IGNORED)
        counted = label != IGNORED
        right = (jnp.argmax(logits, axis=-1) == label.astype(jnp.int32)) & counted
        accuracy = right.sum() / jnp.maximum(counted.sum(), 1)
        return loss, (updated.get("batch_stats", {}), {"pixel_accuracy": accuracy})

    def project(self, params: Any) -> Any:
        """Returns `params`: all values are allowed."""
        return params

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array],
                available: Sequence[str] = ()) -> dict[str, jax.Array]:
        """Returns `prediction`, class index per pixel, uint8 [batch, height, width], and `label` as in the batch.

        A run with config.sensor_dropout also returns `prediction_<sensor>` of each sensor alone.

        Args:
          params, batch_stats, batch: as of `Task`.
          available: with config.sensor_dropout, the sensors to predict from; the batch may lack the others. () = all.
        """
        def predict(sensors):
            return jnp.argmax(self.logits(params, batch_stats, batch, available, sensors), axis=-1).astype(jnp.uint8)

        return {"label": batch["label"]} | with_sensors_alone("prediction", predict, self.config, available)

    def logits(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], available: Sequence[str] = (),
               used: Sequence[str] = ()) -> jax.Array:
        """Returns float32 [batch, height, width, classes]; their softmax is the probability of each class.

        Args:
          params, batch_stats: as of `Task`.
          batch: raw images [batch, height, width, bands]; no label is needed.
          available: the sensors whose images the batch holds; () = all.
          used: the sensors to predict from; () = those that are available.
        """
        images = self._dates(normalised(batch, self.sensors, (*available, *map(before, available))))
        given = only_available(self.config.encoders, used or available, len(next(iter(images.values()))))

        def of_window(part: Mapping[str, jax.Array]) -> Any:
            return self.model.apply({"params": params, "batch_stats": batch_stats}, part, False, given)

        return in_windows(of_window, images, len(self.classes), self.config.window, self.config.overlap)

    def evaluate(self, outputs: Iterator[tuple[np.ndarray, dict[str, np.ndarray]]], records: Records) -> Evaluation:
        """Scores one confusion matrix over the split, and one of each sensor alone; see `Task.evaluate`."""
        classes, scored = len(self.classes), []
        kept: list[np.ndarray] = []
        keeps = keeps_predictions(records)
        matrices: dict[str, list[np.ndarray]] = {
            key: [] for key in ("prediction", *(f"prediction_{name}" for name in self.config.alone))}
        shown = set(np.linspace(0, len(records) - 1, min(_PANEL_ROWS, len(records))).astype(int).tolist())
        pictured = dates(self.inputs[0], self.config.change != "none")
        images, labels, predictions = [], [], []
        worst = WorstImages(self.classes, _PANEL_ROWS)
        for numbers, output in outputs:
            for row, number in enumerate(numbers.tolist()):
                scored.append(number)
                for key, of_images in matrices.items():
                    of_images.append(confusion_matrix(output["label"][row], output[key][row], classes))
                worst.add(number, matrices["prediction"][-1], output["label"][row], output["prediction"][row])
                if keeps:
                    kept.append(output["prediction"][row])
                if number in shown:
                    record = records[number]
                    images.append([record[name] for name in pictured.values()])
                    labels.append(output["label"][row])
                    predictions.append(output["prediction"][row])
        whole = evaluate_segmentation(np.sum(matrices["prediction"], axis=0), self.classes, images, labels, predictions,
                                      self.sensors[self.inputs[0]], tuple(pictured), self.colours)

        def read(number: int) -> tuple[str, list[np.ndarray]]:
            record = records.record(number)
            return record["id"], [record[name] for name in pictured.values()]

        whole = join([whole, worst.evaluation(read, self.sensors[self.inputs[0]], tuple(pictured), self.colours)])
        values = np.reshape(matrices["prediction"], (len(scored), -1))
        whole = dataclasses.replace(
            whole, per_image={"segmentation": per_image(records, scored, "counts", self.classes, values, kept)})
        return with_single_sensors(whole, {
            name: segmentation_tables(segmentation_scores(np.sum(matrices[f"prediction_{name}"], axis=0),
                                                          self.classes))[0] for name in self.config.alone})

    def _dates(self, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the images as the model takes them: with a change, the two dates of each sensor are stacked."""
        if self.config.change == "none":
            return dict(images)
        return {name: jnp.stack([images[before(name)], images[name]], axis=1) for name in self.inputs}


def _class_weights(config: SegmentConfig, records: Records | Shapes, classes: int) -> np.ndarray:
    """Returns the loss weight per class, float32 [classes]."""
    if config.class_weights == "none" or isinstance(records, Shapes):
        return np.ones(classes, np.float32)
    counts = np.zeros(classes, np.int64)
    for seen, number in enumerate(permutation(config.seed, 0, len(records))):
        if seen >= _WEIGHT_TILES and counts.all():
            break
        label = records[int(number)]["label"]
        counts += np.bincount(label[label != IGNORED].ravel(), minlength=classes)
    if not counts.all():
        empty = records.info.classes[int(np.argmin(counts))]
        raise UserError(f"class '{empty}' has no pixel in the training split; set --config.class_weights=none")
    weights = counts.sum() / counts
    return (weights / weights.mean()).astype(np.float32)
