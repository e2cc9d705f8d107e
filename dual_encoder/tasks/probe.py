"""Frozen vectors and maps of labelled images: of a trained encoder, or of a control that has learnt nothing."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from dual_encoder.config import AtLeast, AtMost, require
from dual_encoder.data.subsets import SubsetConfig
from dual_encoder.errors import UserError
from dual_encoder.evaluation.probes import ProbeName
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec, before
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.features import Features
from dual_encoder.models.fusion import Change, Fusion, combine, encoder_images, encoder_names
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
    """Probes of frozen vectors of images, or of frozen maps if each pixel has a label.

    Attributes:
      init_from: workdir of the run whose encoders are probed; the controls take statistics and architecture from it.
      init_step: checkpoint step; -1 takes the newest.
      representation: 'encoder', the pooled vectors or the maps of the run's encoders. Controls: 'random', the same
        encoders with random weights; 'statistics', mean and deviation of each band, or the values of a pixel;
        'random_features', random convolutional features (Rolf et al. 2021).
      inputs: the images, joined by '+'; their vectors are concatenated.
      change: 'none'; otherwise `<sensor>_before` is read too, and the vectors or maps of both dates are combined:
        'difference', after - before; 'concatenation', after, before and after - before.
      data: the labelled splits.
      probes: 'knn', 'linear'; for labels of pixels 'linear' alone.
      neighbours: of 'knn'.
      seed: of the random controls, and of the pixels that are learnt from.
      batch_size: images per forward pass, 64 at most; it changes no figure.
      cache: folder that keeps vectors and maps for other probes of the same encoders and data; '' keeps nothing.
    """

    task: Literal["probe"]
    init_from: str
    init_step: int
    representation: Representation
    inputs: str
    change: Change
    data: LabelledData
    probes: tuple[ProbeName, ...]
    neighbours: Annotated[int, AtLeast(1)]
    seed: Annotated[int, AtLeast(0), AtMost(2**32 - 1)]
    batch_size: Annotated[int, AtLeast(1)]
    cache: str

    @property
    def sensors(self) -> tuple[str, ...]:
        """The names in `inputs`."""
        return tuple(self.inputs.split("+"))

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that are read."""
        return (*self.sensors, *(() if self.change == "none" else map(before, self.sensors)), "label")

    @property
    def dates(self) -> Mapping[str, str]:
        """The images of the first sensor: 'input', or 'before' and 'after' -> name in a record."""
        first = self.sensors[0]
        return {"input": first} if self.change == "none" else {"before": before(first), "after": first}

    def check(self, path: str) -> None:
        """Raises UserError without a run or a probe."""
        require(self.init_from != "", f"{path}.init_from", self.init_from, "the workdir of a run")
        require(len(self.probes) > 0 and len(set(self.probes)) == len(self.probes), f"{path}.probes", self.probes,
                "'knn', 'linear' or both")
        check_inputs(self.inputs, path)


class Vectors:
    """The function from raw images to frozen vectors, or maps, that a configuration names.

    Args:
      config: what to probe.
      encoder: architecture of the run's encoders.
      sensors: spec of each of config.inputs, with the statistics of the run.
      variables: {'params', 'batch_stats'} of the run.
      fusion: of the run.
      maps: give maps instead of vectors.

    Attributes:
      variables: the arrays that `predict` takes.

    Raises:
      UserError: the run has no encoder of that sensor.
    """

    def __init__(self, config: ProbeConfig, encoder: AnyEncoder, sensors: Mapping[str, SensorSpec],
                 variables: Mapping[str, Any], fusion: Fusion, maps: bool):
        self.config, self.encoder, self.fusion, self.maps = config, encoder, fusion, maps
        self.features = config.features
        self.sensors = {name: sensors[name] for name in config.sensors}
        self.variables = self._variables(variables)

    def _variables(self, trained: Mapping[str, Any]) -> dict[str, Any]:
        """Returns {'params', 'batch_stats'}; of encoders, the trees stand under '<name>_encoder'."""
        names = encoder_names(self.config.sensors, self.fusion)
        images = encoder_images({name: jnp.zeros((2, 64, 64, len(spec.bands))) for name, spec in self.sensors.items()},
                                self.config.sensors, self.fusion)
        keys = dict(zip(names, jax.random.split(jax.random.key(self.config.seed), len(names)), strict=True))
        if self.config.representation in ("encoder", "random"):
            fresh: dict[str, Any] = {"params": {}, "batch_stats": {}}
            for name, key in keys.items():
                made = jax.jit(lambda k, x: self.encoder.make().init(k, x, False))(key, images[name])
                for kind in fresh:
                    fresh[kind][f"{name}_encoder"] = made.get(kind, {})
            pretrained = trained if self.config.representation == "encoder" else None
            params, batch_stats = with_encoders(fresh, pretrained, names)
            return {"params": params, "batch_stats": batch_stats}
        if self.config.representation == "random_features":
            return {"params": {name: jax.random.normal(key, (_FILTER, _FILTER, images[name].shape[-1],
                                                             _RANDOM_FEATURES // 2)) for name, key in keys.items()},
                    "batch_stats": {}}
        return {"params": {}, "batch_stats": {}}

    def predict(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors or maps, and `label` and `location` as in the batch; pure.

        `vector` is float32 [batch, dim]. Maps are `map0`, `map1`, ...: float16 [batch, rows, columns, channels], from
        shallow to deep, encoder after encoder.
        """
        vectors, maps = self._of_date(params, batch_stats, batch, lambda name: name)
        if self.config.change != "none":
            earlier = self._of_date(params, batch_stats, batch, before)
            vectors = [combine(after, one, self.config.change) for after, one in zip(vectors, earlier[0], strict=True)]
            maps = [combine(after, one, self.config.change) for after, one in zip(maps, earlier[1], strict=True)]
        facts = {"label": batch["label"], "location": batch["location"]}
        if self.maps:
            return facts | {f"map{number}": jnp.clip(level, -_LARGEST, _LARGEST).astype(jnp.float16)
                            for number, level in enumerate(maps)}
        return facts | {"vector": jnp.concatenate(vectors, axis=-1)}

    def _of_date(self, params: Any, batch_stats: Any, batch: Mapping[str, jax.Array], feature: Callable[[str], str]
                 ) -> tuple[list[jax.Array], list[jax.Array]]:
        """Returns vectors [batch, dim] and maps of the images of one date; `feature`: sensor -> name in the batch."""
        valid = {name: spec.holds_data(batch[feature(name)])[..., None] for name, spec in self.sensors.items()}
        images = {name: normalise(batch[feature(name)], spec) for name, spec in self.sensors.items()}
        vectors: list[jax.Array] = []
        maps: list[jax.Array] = []
        if self.config.representation == "statistics":
            for name, image in images.items():
                maps.append(image)
                vectors += [image.mean(axis=(1, 2), where=valid[name]), image.std(axis=(1, 2), where=valid[name])]
            return vectors, maps
        for name, image in encoder_images(images, self.config.sensors, self.fusion).items():
            if self.config.representation == "random_features":
                response = _random_features(image, params[name])
                maps.append(_cells(response))
                vectors.append(response.mean(axis=(1, 2)))
            else:
                features = encoded(self.encoder, params, batch_stats, name, image)
                maps += self._levels(features.maps)
                vectors.append(features.pooled)
        return vectors, maps

    def _levels(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Returns the maps that a probe sees: one of each stride, or some of a transformer, which has one stride."""
        if len(set(self.encoder.strides)) > 1:
            return list(maps)
        return [maps[-(-len(maps) * level // _LEVELS) - 1] for level in range(1, _LEVELS + 1)]


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
