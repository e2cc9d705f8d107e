"""Frozen vectors of labelled images: of a trained encoder, or of a control that has learnt nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast, AtMost, require
from dual_encoder.data.subsets import SubsetConfig
from dual_encoder.errors import UserError
from dual_encoder.evaluation.probes import ProbeName
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.fusion import Fusion, encoder_images
from dual_encoder.tasks.downstream import with_encoders
from dual_encoder.tasks.task import check_inputs

_RANDOM_FEATURES = 512  # filters per image
_FILTER = 3  # pixels
Representation = Literal["encoder", "random", "statistics", "random_features"]


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """The labelled splits.

    Attributes:
      dir: data set folder with one label, or several, for each image.
      split: to learn from.
      validation_split: to choose the regularisation on; '' holds out a fifth of the places of `split`.
      eval_split: to score.
      subset: a fraction of the places of `split`, or folds of it; a fold is scored in place of eval_split.
    """

    dir: str
    split: str
    validation_split: str
    eval_split: str
    subset: SubsetConfig

    def check(self, path: str) -> None:
        """Raises UserError without a folder, or if a split would be scored that was learnt from."""
        require(self.dir != "", f"{path}.dir", self.dir, "a data set folder made by `python -m data_prep build`")
        require(self.split != "", f"{path}.split", self.split, "a split of the data set, such as train")
        require(self.eval_split != "", f"{path}.eval_split", self.eval_split, "a split of the data set, such as test")
        if self.subset.folds:
            return
        learnt = {*self.split.split("+"), *self.validation_split.split("+")} - {""}
        require(not learnt & set(self.eval_split.split("+")), f"{path}.eval_split", self.eval_split,
                f"another split than {' and '.join(sorted(learnt))}, which the probes learn from")


@dataclasses.dataclass(frozen=True)
class KnnConfig:
    """Nearest neighbours on labelled images during pre-training, for the curves.

    Attributes:
      every: in steps, and at the end; 0 is off.
      dir: data set folder with one label, or several, for each image.
      split, eval_split: to learn from, and to score; they share no place.
      records: images of each split, evenly spaced; all of them if there are fewer.
      neighbours: number that counts.
    """

    every: Annotated[int, AtLeast(0)]
    dir: str
    split: str
    eval_split: str
    records: Annotated[int, AtLeast(1)]
    neighbours: Annotated[int, AtLeast(1)]

    def check(self, path: str) -> None:
        """Raises UserError without a folder."""
        require(not self.every or self.dir != "", f"{path}.dir", self.dir,
                "a labelled data set folder made by `python -m data_prep build`")


KNN_OFF = {"every": 0, "dir": "", "split": "train", "eval_split": "test", "records": 2048, "neighbours": 20}


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Probes of frozen vectors of images.

    Attributes:
      init_from: workdir of the run whose encoders are probed; the controls take statistics and architecture from it.
      init_step: checkpoint step; -1 takes the newest.
      representation: 'encoder', the pooled vectors of the run's encoders. Controls: 'random', the same encoders with
        random weights; 'statistics', mean and deviation of each band; 'random_features', random convolutional features
        (Rolf et al. 2021).
      inputs: the images, joined by '+'; their vectors are concatenated.
      data: the labelled splits.
      probes: 'knn', 'linear'.
      neighbours: of 'knn'.
      seed: of the random controls.
      batch_size: images per forward pass, 64 at most; it changes no figure.
    """

    task: Literal["probe"]
    init_from: str
    init_step: int
    representation: Representation
    inputs: str
    data: LabelledData
    probes: tuple[ProbeName, ...]
    neighbours: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)]
    batch_size: Annotated[int, AtLeast(1)]

    @property
    def sensors(self) -> tuple[str, ...]:
        """The names in `inputs`."""
        return tuple(self.inputs.split("+"))

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that are read."""
        return (*self.sensors, "label")

    def check(self, path: str) -> None:
        """Raises UserError without a run or a probe."""
        require(self.init_from != "", f"{path}.init_from", self.init_from, "the workdir of a run")
        require(len(self.probes) > 0 and len(set(self.probes)) == len(self.probes), f"{path}.probes", self.probes,
                "'knn', 'linear' or both")
        check_inputs(self.inputs, path)


class Vectors:
    """The function from raw images to frozen vectors that a configuration names.

    Args:
      config: what to probe.
      encoder: architecture of the run's encoders.
      sensors: spec of each of config.inputs, with the statistics of the run.
      variables: {'params', 'batch_stats'} of the run.
      fusion: of the run.

    Attributes:
      variables: the arrays that `predict` takes.

    Raises:
      UserError: the run has no encoder of that sensor.
    """

    def __init__(self, config: ProbeConfig, encoder: AnyEncoder, sensors: Mapping[str, SensorSpec],
                 variables: Mapping[str, Any], fusion: Fusion):
        self.config, self.encoder, self.fusion = config, encoder, fusion
        self.features = config.features
        self.sensors = {name: sensors[name] for name in config.sensors}
        self.variables = self._variables(variables)

    def _variables(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Returns {'params', 'batch_stats'}; of encoders, the trees stand under '<name>_encoder'."""
        keys = jax.random.split(jax.random.key(self.config.seed), len(self.sensors))
        if self.config.representation in ("encoder", "random"):
            fresh: dict[str, Any] = {"params": {}, "batch_stats": {}}
            images = {name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()}
            images = encoder_images(images, self.config.sensors, self.fusion)
            for key, (name, image) in zip(keys, images.items(), strict=False):  # one encoder of all sensors: one key
                made = jax.jit(lambda k, x: self.encoder.make().init(k, x, False))(key, image)
                for kind in fresh:
                    fresh[kind][f"{name}_encoder"] = made.get(kind, {})
            pretrained = trained if self.config.representation == "encoder" else None
            params, batch_stats = with_encoders(fresh, pretrained, tuple(images))
            return {"params": params, "batch_stats": batch_stats}
        if self.config.representation == "random_features":
            shape = (_FILTER, _FILTER)
            return {"params": {name: jax.random.normal(key, (*shape, len(spec.bands), _RANDOM_FEATURES // 2))
                               for key, (name, spec) in zip(keys, self.sensors.items(), strict=True)},
                    "batch_stats": {}}
        return {"params": {}, "batch_stats": {}}

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `vector`, float32 [batch, dim], and `label` and `location` as in the batch; pure."""
        images = {name: normalise(batch[name], spec) for name, spec in self.sensors.items()}
        if self.config.representation == "statistics":
            valid = {name: spec.holds_data(batch[name])[..., None] for name, spec in self.sensors.items()}
            vectors = [measure(axis=(1, 2), where=valid[name]) for name, image in images.items()
                       for measure in (image.mean, image.std)]
        elif self.config.representation == "random_features":
            vectors = [_random_features(image, params[name]) for name, image in images.items()]
        else:
            vectors = [pooled(self.encoder, params, batch_stats, name, image)
                       for name, image in encoder_images(images, self.config.sensors, self.fusion).items()]
        return {"vector": jnp.concatenate(vectors, axis=-1), "label": batch["label"], "location": batch["location"]}


def pooled(encoder: AnyEncoder, params: Any, batch_stats: Any, name: str, image: jax.Array) -> jax.Array:
    """Returns the vectors of images, float32 [batch, width], by the encoder `<name>_encoder`."""
    variables = {"params": params[f"{name}_encoder"], "batch_stats": batch_stats.get(f"{name}_encoder", {})}
    features: Any = encoder.make().apply(variables, image, False)
    return features.pooled


def _random_features(images: jax.Array, filters: jax.Array) -> jax.Array:
    """Returns the mean over the image of the positive and the negative part of random filters (Rolf et al. 2021).

    Args:
      images: float32 [batch, height, width, bands], normalised.
      filters: float32 [rows, columns, bands, n]; each is divided by its length.

    Returns:
      float32 [batch, 2 n].
    """
    filters = filters / jnp.sqrt((filters**2).sum(axis=(0, 1, 2), keepdims=True))
    response = jax.lax.conv_general_dilated(images, filters, (1, 1), "VALID",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))
    parts = (jax.nn.relu(response - 1.0), jax.nn.relu(-response - 1.0))  # a threshold of one standard deviation
    return jnp.concatenate([part.mean(axis=(1, 2)) for part in parts], axis=-1)


def check_kind(kind: str | None) -> None:
    """Raises UserError unless labels are one class per image, or several."""
    if kind not in ("image_class", "image_classes"):
        raise UserError(f"the labels of the data set are of kind '{kind or 'none'}', probes need one class per image "
                        "(image_class) or several (image_classes); build the data set with such labels, as "
                        "--labels=land_cover of bigearthnet")
