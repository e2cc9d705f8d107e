"""The frozen encoders of a run as a function from images to feature maps, and a linear classifier of their pixels."""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.imagery.palette import class_colours
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.inference.facts import ModelFacts
from dual_encoder.inference.segmenter import Segmenter
from dual_encoder.models.fusion import Fusion, encoder_names
from dual_encoder.tasks.build import AnyTask
from dual_encoder.tasks.probe import FrozenEncoder
from dual_encoder.workdir.calibration import Calibration
from dual_encoder.workdir.checkpoint import LoadedModel, digest_of, load_model


class FrozenMaps:
    """The encoders of a run, with all facts that their images must fit.

    Args:
      model: a checkpoint of any task with encoders.
      names: the sensors to use, 's1', 's2' or both.

    Attributes:
      sensors: name -> spec of its images.
      facts, digest: as of `Segmenter`.

    Raises:
      UserError: the run lacks a sensor, or has one encoder for several sensors and one of them is not given.
    """

    def __init__(self, model: LoadedModel, names: Sequence[str]):
        config: Any = parse(AnyTask, model.config, stored=True)
        if unknown := [name for name in names if name not in model.sensors]:
            raise UserError(f"--{unknown[0]} is given, but the run has {' and '.join(model.sensors)} only; leave it "
                            "out, or take another run")
        fusion: Fusion = config.fusion
        if fusion == "early" and set(names) != set(config.sensors):
            raise UserError(f"the run has one encoder of {' and '.join(config.sensors)}; give a scene of each")
        self.sensors: dict[str, SensorSpec] = {name: model.sensors[name] for name in config.sensors if name in names}
        self._encoders = []
        for name in encoder_names(tuple(self.sensors), fusion):
            key = f"{name}_encoder"
            variables = {kind: {key: model.variables.get(kind, {}).get(key, {})} for kind in ("params", "batch_stats")}
            images = self.sensors if fusion == "early" else {name: self.sensors[name]}
            self._encoders.append(FrozenEncoder("encoder", config.encoder, name, images, variables, maps=True))
        self.facts = ModelFacts.of(model, config.encoder)
        self.digest = digest_of(model.variables, self.sensors)

    @functools.cached_property
    def maps(self) -> Any:
        """A compiled function: images as of `Segmenter.logits` -> list of float16 [batch, rows, columns, channels]."""
        variables = jax.device_put([encoder.variables for encoder in self._encoders])

        def of(variables: Any, images: Mapping[str, jax.Array]) -> list[jax.Array]:
            found = [encoder.predict(own["params"], own["batch_stats"], images)
                     for encoder, own in zip(self._encoders, variables, strict=True)]
            return [level for maps in found for level in maps.values()]

        compiled = jax.jit(of)
        return lambda images: compiled(variables, images)


class MapClassifier:
    """A linear classifier of the pixels of frozen maps, in place of a `Segmenter`.

    Args:
      frozen: the encoders.
      classes: names.
      weights: float [channels of all levels, classes].
      bias: float [classes].

    Attributes:
      classes, colours: as of `Segmenter`; so are all other attributes. There is no calibration.
    """

    calibration: Calibration | None = None
    not_calibrated = "not calibrated: it was fitted to polygons"
    temperature = 1.0

    def __init__(self, frozen: FrozenMaps, classes: Sequence[str], weights: ArrayLike, bias: ArrayLike):
        self.classes, self.colours = tuple(classes), tuple(class_colours(len(classes)))
        self.sensors, self.facts, self._frozen = frozen.sensors, frozen.facts, frozen
        self._weights, self._bias = jnp.asarray(weights, jnp.float32), jnp.asarray(bias, jnp.float32)
        self.digest = f"{frozen.digest}-{digest_of([self._weights, self._bias])[:16]}"

    def logits(self, images: Mapping[str, np.ndarray]) -> jax.Array:
        """Returns the logits of all pixels, float32 [batch, height, width, classes]; images as of `Segmenter`."""
        shape = next(iter(images.values())).shape[:3]
        return _logits(self._frozen.maps(dict(images)), self._weights, self._bias, shape)


PixelModel = Segmenter | MapClassifier


@functools.partial(jax.jit, static_argnums=3)
def _logits(levels: Sequence[jax.Array], weights: jax.Array, bias: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns the logits; classes are computed in the cells and brought to the pixels, since both are linear."""
    total, start = jnp.broadcast_to(bias, (*shape, len(bias))), 0
    for level in levels:
        cells = level.astype(jnp.float32) @ weights[start:start + level.shape[-1]]
        start += level.shape[-1]
        total += jax.image.resize(cells, (*shape, len(bias)), "bilinear")
    return total


def load_frozen_maps(workdir: str | os.PathLike, names: Sequence[str], step: int | None = None) -> FrozenMaps:
    """Reads the encoders of a run; arguments as of `FrozenMaps` and `load_segmentation`."""
    return FrozenMaps(load_model(workdir, step), names)
