"""The part that all downstream tasks share: encoders from a pre-training checkpoint, and a label."""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.config import AtLeast, AtMost, Before, IsPath, require
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError
from dual_encoder.evaluation.per_image import Kind, PerImage
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.fusion import Fusion, encoder_names
from dual_encoder.optim.optimizer import RateFactor
from dual_encoder.tasks.bands import AdaptBands
from dual_encoder.tasks.task import TaskConfig, check_start

_KEPT_PIXELS = 1 << 26  # of predictions that are stored with the scores
_DROPOUT = 1 << 16  # of a record's key; augment.py takes small numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownstreamConfig(TaskConfig):
    """The configuration that all downstream tasks share.

    Attributes:
      init_from: workdir of a pre-training run; '' starts from random weights.
      init_step: checkpoint step of it; -1 takes the state that it chose, or else the newest.
      adapt_bands: 'select': images may lack bands of the encoder. The kernels of the bands that they have are kept, by
        name, with their statistics; those of the others are left out. 'none': such images are an error.
      frozen: keep the encoders and their BatchNorm statistics as they are.
      train_stages: only so many last stages of each encoder learn; the others keep their BatchNorm statistics, too. A
        ResNet has 5 stages (stem, layers), a ViT one more than blocks. 0 = all learn.
      layer_decay: the learning rate of the last stage is multiplied by this, that of the stage before by its square,
        and so on (Clark et al. 2020, ELECTRA, section 3.1; Bao et al. 2021, BEiT). 1 is off.
      fusion: with several inputs, 'late', an encoder per sensor, whose outputs are concatenated; 'early', one encoder
        of the stacked bands of all inputs, `s1_s2_encoder`.
      sensor_dropout: probability that a record of a training batch lacks one random sensor: what its encoder returns is
        replaced by zeros. So one model serves each sensor alone and all together, and the evaluation scores each alone.
    """

    init_from: Annotated[str, IsPath()]
    init_step: int
    adapt_bands: Annotated[AdaptBands, Before("none")]
    frozen: bool
    train_stages: Annotated[int, AtLeast(0), Before(0)]
    layer_decay: Annotated[float, AtMost(1), Before(1.0)]
    fusion: Annotated[Fusion, Before("late")]
    sensor_dropout: Annotated[float, AtLeast(0), AtMost(1), Before(0.0)]

    @property
    def encoders(self) -> tuple[str, ...]:
        """The names of the encoders, as of `encoder_names`."""
        return encoder_names(self.sensors, self.fusion)

    @property
    def features(self) -> tuple[str, ...]:
        """The tensors of a record that the task reads."""
        return (*self.sensors, "label")

    @property
    def frozen_parameters(self) -> tuple[str, ...]:
        """Top-level names of the parameters that never change."""
        return tuple(f"{name}_encoder" for name in self.encoders) if self.frozen else ()

    @property
    def alone(self) -> tuple[str, ...]:
        """The sensors that a model can do with alone."""
        return self.sensors if self.sensor_dropout else ()

    @property
    def fixed_stages(self) -> int:
        """How many first stages of each encoder do not learn."""
        return self.encoder.stages - self.train_stages if self.train_stages else 0

    def rate_factor(self) -> RateFactor | None:
        """Returns path of a parameter -> factor of its learning rate, 0 if it never changes; None: 1 for all."""
        if not self.fixed_stages and self.layer_decay == 1:
            return None
        encoders = {f"{name}_encoder" for name in self.encoders}

        def factor(path: tuple[str, ...]) -> float:
            if path[0] not in encoders:
                return 1.0
            stage = self.encoder.stage(path[1])
            return 0.0 if stage < self.fixed_stages else self.layer_decay ** (self.encoder.stages - stage)

        return factor

    def check(self, path: str) -> None:
        """Raises UserError when two groups do not fit together."""
        super().check(path)
        require(not self.sensor_dropout or len(self.encoders) > 1, f"{path}.sensor_dropout", self.sensor_dropout,
                f"0, because {path}.inputs and {path}.fusion make one encoder; a second one is needed to drop one")
        stages = self.encoder.stages
        require(self.train_stages <= stages, f"{path}.train_stages", self.train_stages,
                f"0 for all stages, or 1 to {stages}, the stages of the encoder")
        require(not (self.frozen and self.train_stages), f"{path}.train_stages", self.train_stages,
                f"0 with {path}.frozen, which stops all stages")
        require(self.layer_decay > 0, f"{path}.layer_decay", self.layer_decay, "a factor in (0, 1]")
        require(self.augment.shared_crop, f"{path}.augment.shared_crop", False,
                "True: a label belongs to the pixels of all images")
        check_start(self.init_from, self.data.statistics, path)


def draw_available(keys: jax.Array, sensors: int, probability: float) -> jax.Array | None:
    """Draws the sensors that each record has: all, or with `probability` all but a random one.

    Args:
      keys: one per record, [batch], as of `record_keys`.
      sensors: their number.
      probability: in [0, 1].

    Returns:
      bool [batch, sensors], or None if the probability is 0: all have all.
    """
    if not probability:
        return None

    def draw(key):
        lacks_key, which_key = jax.random.split(jax.random.fold_in(key, _DROPOUT))
        lost = jnp.arange(sensors) == jax.random.randint(which_key, (), 0, sensors)
        return ~(lost & jax.random.bernoulli(lacks_key, probability))

    return jax.vmap(draw)(keys)


def only_available(sensors: Sequence[str], available: Sequence[str], rows: int) -> jax.Array | None:
    """Returns bool [rows, sensors]: True for the sensors that are `available`, in each row; None for (), which is all.

    Raises:
      UserError: a name that is none of `sensors`.
    """
    if unknown := [name for name in available if name not in sensors]:
        raise UserError(f"'{unknown[0]}' is not available; the model takes {' and '.join(sensors)}")
    return jnp.tile(jnp.array([[name in available for name in sensors]]), (rows, 1)) if available else None


def with_sensors_alone(name: str, predict: Callable[[Sequence[str]], jax.Array], config: DownstreamConfig,
                       available: Sequence[str]) -> dict[str, jax.Array]:
    """Returns `name`, the output from the sensors that are available, and `<name>_<sensor>` of each sensor alone.

    Args:
      name: of the output.
      predict: sensors to predict from, () = all -> output.
      config: of the task.
      available: the sensors to predict from; () = all, and only then each sensor is predicted from alone, too.
    """
    return {name: predict(available)} | {f"{name}_{sensor}": predict((sensor,))
                                         for sensor in (() if available else config.alone)}


def normalised(batch: Mapping[str, jax.Array], sensors: Mapping[str, SensorSpec], wanted: Collection[str]
               ) -> dict[str, jax.Array]:
    """Returns the images of a batch, float32 [batch, height, width, bands]; those that are not wanted are 0.

    Args:
      batch: raw images; it may lack those that are not wanted.
      sensors: name -> spec of each image.
      wanted: names; () = all.
    """
    images = {name: normalise(batch[name], spec) for name, spec in sensors.items() if not wanted or name in wanted}
    shape = next(iter(images.values())).shape[:3]
    return {name: images[name] if name in images else jnp.zeros((*shape, len(spec.bands)))
            for name, spec in sensors.items()}


def with_encoders(fresh: Mapping[str, Any], pretrained: Mapping[str, Any] | None, sensors: tuple[str, ...]
                  ) -> tuple[Any, Any]:
    """Returns (params, batch_stats) of a model whose encoders come from a checkpoint.

    Args:
      fresh: variables of the model with random weights.
      pretrained: {'params', 'batch_stats'} of a pre-trained dual encoder; None keeps the random weights.
      sensors: the encoders `<name>_encoder` to take, sensors or names of `encoder_names`.

    Raises:
      UserError: the checkpoint has no such encoder, or one with other parameters or statistics.
    """
    return with_modules(fresh, pretrained, [f"{name}_encoder" for name in sensors])


def with_modules(fresh: Mapping[str, Any], pretrained: Mapping[str, Any] | None, names: Iterable[str]
                 ) -> tuple[Any, Any]:
    """Returns (params, batch_stats) of a model with some modules of a checkpoint.

    Args:
      fresh: variables of the model with random weights.
      pretrained: {'params', 'batch_stats'} of the checkpoint; None keeps the random weights.
      names: the modules to take, such as 's1_encoder' and 's1_head'.

    Raises:
      UserError: the checkpoint has no such module, or one with other parameters or statistics.
    """
    variables = {kind: dict(fresh.get(kind, {})) for kind in ("params", "batch_stats")}
    if pretrained is not None:
        for name in names:
            taken = _take(pretrained, name, variables)
            variables = {kind: trees | taken[kind] for kind, trees in variables.items()}
    return variables["params"], variables["batch_stats"]


def per_image(records: Records, numbers: Iterable[int], kind: Kind, classes: tuple[str, ...], values: np.ndarray,
              predictions: Sequence[np.ndarray] = ()) -> PerImage:
    """Returns the table of what each image adds to the scores, with ids and places of the records.

    Args:
      records: of the split.
      numbers: of the records, one per row of `values`.
      kind, classes, values: as of `PerImage`.
      predictions: of each image, uint8 [height, width]; () keeps none.
    """
    rows, ids, places = list(numbers), records.ids, records.location_ids
    return PerImage(kind, classes, tuple(ids[row] for row in rows), tuple(places[row] for row in rows),
                    values.astype(np.float64), np.stack(predictions) if len(predictions) else None)


def keeps_predictions(records: Records) -> bool:
    """Returns whether the predictions of the pixels of a split are few enough to be stored with its scores."""
    return len(records) * math.prod(records.info.tensors["label"].shape) <= _KEPT_PIXELS


def _take(pretrained: Mapping[str, Any], name: str, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the module `name` of a checkpoint, {'params': {name: ...}, 'batch_stats': ...}."""
    if name not in pretrained["params"]:
        encoders = sorted(key for key in pretrained["params"] if key.endswith("_encoder"))
        raise UserError(f"the checkpoint has no '{name}', it has {encoders}; choose other config.inputs, or "
                        "another config.fusion")
    kinds = ("params", "batch_stats")  # an encoder without BatchNorm has no statistics
    theirs, ours = ({kind: {name: tree[kind][name]} if name in tree.get(kind, {}) else {} for kind in kinds}
                    for tree in (pretrained, fresh))
    seen, expected = dict(_shapes(theirs)), dict(_shapes(ours))
    different = sorted(key for key in seen | expected if seen.get(key) != expected.get(key))
    if different:
        key, width = different[0], "projection.hidden" if name.endswith("_head") else "encoder.width"
        raise UserError(f"the checkpoint's {name} differs from the configured one: '{key}' is {seen.get(key)} in the "
                        f"checkpoint, {expected.get(key)} in the model ({len(different)} such); set the keys of "
                        f"config.{width.split('.')[0]} (--config.{width} and so on) as in pre-training")
    return jax.tree.map(jnp.asarray, theirs)


def _shapes(tree: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        names = path[2:]  # after collection and encoder; the leaves of params and batch_stats differ in name
        yield jax.tree_util.keystr(names, simple=True, separator="/"), tuple(leaf.shape)
