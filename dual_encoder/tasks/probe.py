"""Frozen vectors and maps of labelled images: of a trained encoder, or of a control that has learnt nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast, AtMost, Before, IsPath, require
from dual_encoder.data.subsets import SubsetConfig
from dual_encoder.errors import UserError
from dual_encoder.evaluation.probes import ProbeName
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec, before, dates
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.features import Features
from dual_encoder.models.fusion import Change, Fusion, encoder_images, encoder_names
from dual_encoder.tasks.bands import AdaptBands
from dual_encoder.tasks.downstream import with_encoders
from dual_encoder.tasks.task import check_inputs

_RANDOM_FEATURES = 512  # filters per image
_FILTER = 3  # pixels
_CELL = 4  # pixels per row of a map of random features
_LEVELS = 4  # maps of a transformer: evenly spaced blocks, the last among them
_LARGEST = 6e4  # float16 holds 65,504
Representation = Literal["encoder", "random", "statistics", "random_features"]


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """The labelled splits.

    Attributes:
      dir: data set folder with one label, or several, for each image.
      split: to learn from.
      validation_split: to choose the regularisation on; '' holds out a fifth of the groups of `split`, as
        subset.groups names them.
      eval_split: to score.
      subset: a fraction of the places of `split`, or folds of it; a fold is scored in place of eval_split.
    """

    dir: Annotated[str, IsPath()]
    split: str
    validation_split: str
    eval_split: str
    subset: SubsetConfig

    def check(self, path: str) -> None:
        """Raises UserError without a folder, or if a split would be scored that was learnt from."""
        require(self.dir != "", f"{path}.dir", self.dir, "a data set folder made by `python -m data_prep build`")
        require(self.split != "", f"{path}.split", self.split, "a split of the data set, such as train")
        require(self.eval_split != "", f"{path}.eval_split", self.eval_split, "a split of the data set, such as test")
        if self.subset.folds or self.subset.validate:
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
    dir: Annotated[str, IsPath()]
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
    """Probes of frozen vectors of images, or of frozen maps if each pixel has a label.

    Attributes:
      init_from: workdir of the run whose encoders are probed; the controls take statistics and architecture from it.
      init_step: checkpoint step; -1 takes the state that it chose, or else the newest.
      adapt_bands: 'select': images may lack bands of the encoder. The kernels of the bands that they have are kept, by
        name, with their statistics; those of the others are left out. 'none': such images are an error.
      representation: 'encoder', the pooled vectors or the maps of the run's encoders. Controls: 'random', the same
        encoders with random weights; 'statistics', mean and deviation of each band, or the values of a pixel;
        'random_features', random convolutional features (Rolf et al. 2021).
      inputs: the images, joined by '+'; their vectors are concatenated.
      change: 'none'; otherwise `<sensor>_before` is read too, and the vectors or maps of both dates are combined:
        'difference', after - before; 'concatenation', after and before, side by side.
      data: the labelled splits.
      probes: 'knn', 'linear'; for labels of pixels 'linear' alone.
      class_weights: of 'linear': 'none', or 'inverse', one over the class's share of the labels that are learnt from.
      neighbours: of 'knn'.
      seed: of the random controls, and of the pixels that are learnt from.
      batch_size: images per forward pass, 64 at most; it changes no figure.
      cache: folder that keeps vectors and maps for other probes of the same encoders and data; '' keeps nothing.
    """

    task: Literal["probe"]
    init_from: Annotated[str, IsPath()]
    init_step: int
    adapt_bands: Annotated[AdaptBands, Before("none")]
    representation: Representation
    inputs: str
    change: Change
    data: LabelledData
    probes: tuple[ProbeName, ...]
    class_weights: Annotated[Literal["none", "inverse"], Before("none")]
    neighbours: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)]
    batch_size: Annotated[int, AtLeast(1)]
    cache: Annotated[str, IsPath()]

    @property
    def sensors(self) -> tuple[str, ...]:
        """The names in `inputs`."""
        return tuple(self.inputs.split("+"))

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that are read."""
        return (*self.sensors, *(() if self.change == "none" else map(before, self.sensors)), "label")

    @property
    def balanced(self) -> bool:
        """Whether each class counts alike in 'linear'."""
        return self.class_weights == "inverse"

    @property
    def dates(self) -> Mapping[str, str]:
        """The images of the first sensor: 'input', or 'before' and 'after' -> name in a record."""
        return dates(self.sensors[0], self.change != "none")

    def check(self, path: str) -> None:
        """Raises UserError without a run or a probe."""
        require(self.init_from != "", f"{path}.init_from", self.init_from, "the workdir of a run")
        require(len(self.probes) > 0 and len(set(self.probes)) == len(self.probes), f"{path}.probes", self.probes,
                "'knn', 'linear' or both")
        check_inputs(self.inputs, path)


class FrozenEncoder:
    """The function from one image of a record to a frozen vector or maps, by one encoder or a control in its place.

    Args:
      representation: of the configuration.
      encoder: architecture of the run's encoders.
      name: of the encoder, without '_encoder'.
      images: name of an image in a record -> spec; several are stacked (early fusion).
      variables: {'params', 'batch_stats'} that `predict` takes.
      maps: give maps instead of a vector.
    """

    def __init__(self, representation: Representation, encoder: AnyEncoder, name: str,
                 images: Mapping[str, SensorSpec], variables: Mapping[str, Any], maps: bool):
        self.representation, self.encoder, self.name, self.images = representation, encoder, name, dict(images)
        self.variables, self.maps = variables, maps

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns `vector`, float32 [batch, dim], or maps; pure.

        Maps are `map0`, `map1`, ...: float16 [batch, rows, columns, channels], from shallow to deep.
        """
        stacked = encoder_images({name: normalise(batch[name], spec) for name, spec in self.images.items()},
                                 tuple(self.images), "early")
        image, = stacked.values()
        maps: Sequence[jax.Array]
        if self.representation == "statistics":
            valid = jnp.concatenate([jnp.broadcast_to(spec.holds_data(batch[name])[..., None], batch[name].shape)
                                     for name, spec in self.images.items()], axis=-1)
            mean, std = image.mean(axis=(1, 2), where=valid), image.std(axis=(1, 2), where=valid)
            maps, vector = [image], jnp.concatenate([mean, std], axis=-1)
        elif self.representation == "random_features":
            response = _random_features(image, params[self.name])
            maps, vector = [_cells(response)], response.mean(axis=(1, 2))
        else:
            features = encoded(self.encoder, params, batch_stats, self.name, image)
            maps, vector = self._levels(features.maps), features.pooled
        if self.maps:
            return {f"map{number}": jnp.clip(level, -_LARGEST, _LARGEST).astype(jnp.float16)
                    for number, level in enumerate(maps)}
        return {"vector": vector}

    def _levels(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the maps that a probe sees: one of each stride, or some of a transformer, which has one stride."""
        if len(set(self.encoder.strides)) > 1:
            return list(maps)
        return [maps[-(-len(maps) * level // _LEVELS) - 1] for level in range(1, _LEVELS + 1)]


def frozen_encoders(config: ProbeConfig, encoder: AnyEncoder, sensors: Mapping[str, SensorSpec],
                    trained: Mapping[str, Any], fusion: Fusion, maps: bool) -> list[list[FrozenEncoder]]:
    """Returns the encoders of a probe, each with the image after a change, and with that before it if it is read.

    Args:
      config: what to probe.
      encoder: architecture of the run's encoders.
      sensors: spec of each of config.inputs, with the statistics of the run.
      trained: {'params', 'batch_stats'} of the run.
      fusion: of the run.
      maps: give maps instead of vectors.

    Raises:
      UserError: the run has no encoder of that sensor.
    """
    names = encoder_names(config.sensors, fusion)
    keys = jax.random.split(jax.random.key(config.seed), len(names))
    result = []
    for name, key in zip(names, keys, strict=True):
        used = {name: sensors[name]} if fusion == "late" else {sensor: sensors[sensor] for sensor in config.sensors}
        bands = sum(len(spec.bands) for spec in used.values())
        variables = _variables(config.representation, encoder, name, bands, key, trained)
        dates = [used] if config.change == "none" else [used, {before(sensor): spec for sensor, spec in used.items()}]
        result.append([FrozenEncoder(config.representation, encoder, name, images, variables, maps)
                       for images in dates])
    return result


def _variables(representation: Representation, encoder: AnyEncoder, name: str, bands: int, key: jax.Array,
               trained: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {'params', 'batch_stats'} of one encoder; its trees stand under '<name>_encoder'."""
    if representation in ("encoder", "random"):
        def init(key, image):
            return encoder.make().init(key, image, False)

        image = jnp.zeros((2, 64, 64, bands))
        # A trained encoder needs the shapes alone, to be compared.
        made = jax.jit(init)(key, image) if representation == "random" else jax.eval_shape(init, key, image)
        fresh = {kind: {f"{name}_encoder": made.get(kind, {})} for kind in ("params", "batch_stats")}
        params, batch_stats = with_encoders(fresh, trained if representation == "encoder" else None, (name,))
        return {"params": params, "batch_stats": batch_stats}
    if representation == "random_features":
        filters = jax.random.normal(key, (_FILTER, _FILTER, bands, _RANDOM_FEATURES // 2))
        return {"params": {name: filters}, "batch_stats": {}}
    return {"params": {}, "batch_stats": {}}


def encoded(encoder: AnyEncoder, params: Any, batch_stats: Any, name: str, image: jax.Array) -> Features:
    """Returns what the encoder `<name>_encoder` gives for images, float32 [batch, height, width, bands]."""
    variables = {"params": params[f"{name}_encoder"], "batch_stats": batch_stats.get(f"{name}_encoder", {})}
    features: Any = encoder.make().apply(variables, image, False)
    return features


def _random_features(images: jax.Array, filters: jax.Array) -> jax.Array:
    """Returns the positive and the negative part of the responses of random filters (Rolf et al. 2021).

    Args:
      images: float32 [batch, height, width, bands], normalised.
      filters: float32 [rows, columns, bands, n]; each is divided by its length.

    Returns:
      float32 [batch, height - rows + 1, width - columns + 1, 2 n]. Their means over the image are the vector.
    """
    filters = filters / jnp.sqrt((filters**2).sum(axis=(0, 1, 2), keepdims=True))
    response = jax.lax.conv_general_dilated(images, filters, (1, 1), "VALID",
                                            dimension_numbers=("NHWC", "HWIO", "NHWC"))
    # A threshold of one standard deviation.
    return jnp.concatenate([jax.nn.relu(response - 1.0), jax.nn.relu(-response - 1.0)], axis=-1)


def _cells(maps: jax.Array) -> jax.Array:
    """Returns the means of cells of 4 x 4 pixels, [batch, rows, columns, channels]; a cell at the border may be cut."""
    sums, counts = (jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, _CELL, _CELL, 1), (1, _CELL, _CELL, 1), "SAME")
                    for values in (maps, jnp.ones((1, *maps.shape[1:3], 1), maps.dtype)))
    return sums / counts


def check_probes(kind: str | None, probes: Sequence[ProbeName]) -> None:
    """Raises UserError unless the labels are classes of images or of pixels, and the probes are for such labels."""
    if kind not in ("image_class", "image_classes", "pixel_classes", "change"):
        raise UserError(f"the labels of the data set are of kind '{kind or 'none'}', probes need classes of images or "
                        "of pixels; build the data set with such labels, as --labels=land_cover of bigearthnet")
    if kind in ("pixel_classes", "change") and tuple(probes) != ("linear",):
        raise UserError(f"config.probes is {tuple(probes)}, the data set has labels of pixels; expected ('linear',): "
                        "use configs/probe.py:segmentation")
