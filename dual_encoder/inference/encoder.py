"""Vectors of images by a trained encoder, in a few lines.

    import dual_encoder
    encoder = dual_encoder.load("runs/pretrain")             # a workdir, or a folder of `python -m dual_encoder.export`
    encoder.bands, encoder.units                             # what each sensor's images must hold
    vectors = encoder.encode(s1=decibels, s2=reflectance, units="physical")
    vectors["s1"] @ vectors["s2"].T                          # [images, images], after a division by the lengths
"""

import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dual_encoder.config import parse
from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.normalise import normalise
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.inference import exported
from dual_encoder.inference.images import Images, Units, stored_images
from dual_encoder.models.dual_encoder import ProjectionConfig, ProjectionHead
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.fusion import Fusion, encoder_images, encoder_names
from dual_encoder.tasks.build import AnyTask
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.tasks.probe import encoded
from dual_encoder.tasks.sources import load as load_checkpoint
from dual_encoder.workdir.checkpoint import digest_of

Vectors = Literal["projected", "pooled"]


class Network(NamedTuple):
    """Encoders, and the heads that follow them.

    Attributes:
      encoder: architecture of each encoder.
      fusion: 'late', an encoder per sensor; 'early', one of the stacked bands of all sensors.
      projection: of the heads; None if there are none.
      variables: {'params', 'batch_stats'}; modules are '<name>_encoder' and '<name>_head'.
    """

    encoder: AnyEncoder
    fusion: Fusion
    projection: ProjectionConfig | None
    variables: Mapping[str, Any]


class Encoder:
    """The encoders of a run: images to vectors.

    Args:
      sensors: feature name -> spec of its images, with the statistics of the training.
      network: architecture and weights.
      origin: facts about the training, as JSON values: task, step, code_version, dataset.

    Attributes:
      sensors, origin: the arguments.
      names: the encoders: the sensors, or 's1_s2' for one encoder of their stacked bands.
    """

    def __init__(self, sensors: Mapping[str, SensorSpec], network: Network, origin: Mapping[str, Any]):
        self.sensors, self.origin = dict(sensors), dict(origin)
        self.names = encoder_names(tuple(sensors), network.fusion)
        self._network = network._replace(variables=jax.device_put(network.variables))
        self._apply = jax.jit(functools.partial(_apply, network._replace(variables={}), self.sensors),
                              static_argnums=(1,))

    @property
    def bands(self) -> dict[str, tuple[str, ...]]:
        """The bands of each sensor's images, in the order of the last axis."""
        return {name: spec.bands for name, spec in self.sensors.items()}

    @property
    def units(self) -> dict[str, str]:
        """The physical unit of each sensor's images."""
        return {name: spec.unit for name, spec in self.sensors.items()}

    @property
    def vectors(self) -> tuple[Vectors, ...]:
        """The kinds of vectors that `encode` gives."""
        return ("projected", "pooled") if self._network.projection else ("pooled",)

    def dim(self, vectors: Vectors = "projected") -> int:
        """Returns the length of the vectors of one kind."""
        self.check_vectors(vectors)
        if vectors == "projected":
            assert self._network.projection is not None
            return self._network.projection.dim
        images = {name: jax.ShapeDtypeStruct((1, 64, 64, len(spec.bands)), spec.dtype)
                  for name, spec in self.sensors.items()}
        output = jax.eval_shape(lambda batch: self._apply(self._network.variables, vectors, batch), images)
        return int(output[self.names[0]].shape[1])

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 of weights and sensors: equal digests give equal vectors."""
        return hashlib.sha256((digest_of(self._network.variables, self.sensors) + repr(self._network[:3])).encode()
                              ).hexdigest()

    def encode(self, *, units: Units, vectors: Vectors = "projected", batch_size: int = 64, **images: Images
               ) -> dict[str, np.ndarray]:
        """Returns the vectors of images.

        Pixels without data count as the mean of their band, as in training. Rows do not depend on each other.

        Args:
          images: sensor -> array [height, width, bands] or [n, height, width, bands], or the path of a raster, as of
            `stored_images`: s1=..., s2=.... Images of any size; a ViT was trained for one.
          units: 'physical', floats in `units` of the sensor; 'stored', integers as in the data set.
          vectors: 'projected', the vectors that pre-training compares: the only ones in which two sensors can be
            compared, by their cosine. 'pooled', the features below the head, for classifiers and probes of one sensor.
          batch_size: images per forward pass; it changes no value beyond rounding.

        Returns:
          name of the encoder -> float32 [n, dim], of any length.

        Raises:
          UserError: an unknown or missing sensor; images that do not fit; vectors that the run does not have.

        >>> encoder = load("runs/pretrain")  # ResNets of 8 channels at the stem, heads of 8 dimensions
        >>> decibels = np.full((3, 64, 64, 2), (-11.0, -17.5))
        >>> encoder.encode(s1=decibels, units="physical")["s1"].shape
        (3, 8)
        >>> hundredths = (100 * decibels).astype(np.int16)
        >>> encoder.encode(s1=hundredths[0], units="stored", vectors="pooled")["s1"].shape
        (1, 64)
        """
        self.check_vectors(vectors)
        stacked = len(self.sensors) if self._network.fusion == "early" else 1
        if unknown := [name for name in images if name not in self.sensors]:
            raise UserError(f"the encoder has no sensor '{unknown[0]}'; {nearest(unknown[0], self.sensors)}")
        if len(images) < stacked or not images:
            raise UserError(f"images of {', '.join(sorted(images)) or 'no sensor'} given; expected "
                            f"{' and '.join(self.sensors) if stacked > 1 else ' or '.join(self.sensors)}")
        whole = {name: stored_images(image, self.sensors[name], units, name) for name, image in images.items()}
        groups = [whole] if stacked > 1 else [{name: image} for name, image in whole.items()]
        result: dict[str, np.ndarray] = {}
        for group in groups:
            counts = {len(image) for image in group.values()}
            if len(counts) > 1:
                raise UserError(f"the sensors have {' and '.join(map(str, sorted(counts)))} images; expected as many")
            result |= self._encode(group, vectors, batch_size)
        return result

    def check_vectors(self, vectors: str) -> None:
        """Raises UserError unless `encode` gives such vectors."""
        if vectors not in ("projected", "pooled"):
            raise UserError(f"vectors is {vectors!r}; expected 'projected' or 'pooled'")
        if vectors not in self.vectors:
            raise UserError(f"this {self.origin['task']} has no projection heads; give vectors='pooled' "
                            "(--vectors=pooled), or the workdir of a pre-training run")

    def _encode(self, images: Mapping[str, np.ndarray], vectors: Vectors, batch_size: int) -> dict[str, np.ndarray]:
        """Returns the vectors of stored images of one encoder; few shapes are compiled."""
        count = len(next(iter(images.values())))
        parts = []
        for start in range(0, count, batch_size):
            rows = {name: image[start:start + batch_size] for name, image in images.items()}
            real = min(batch_size, count - start)
            # A power of two, so that any number of images compiles few programs; the last image fills it up.
            wanted = min(batch_size, 1 << (real - 1).bit_length())
            filled = {name: np.concatenate([image, np.repeat(image[-1:], wanted - real, axis=0)])
                      for name, image in rows.items()}
            output = jax.device_get(self._apply(self._network.variables, vectors, filled))
            parts.append({name: array[:real] for name, array in output.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _apply(network: Network, sensors: Mapping[str, SensorSpec], variables: Mapping[str, Any], vectors: Vectors,
           batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns encoder -> vectors float32 [batch, dim] of stored images of all sensors of that encoder; pure."""
    images = {name: normalise(image, sensors[name]) for name, image in batch.items()}
    order = tuple(name for name in sensors if name in images)
    result = {}
    for name, image in encoder_images(images, order, network.fusion).items():
        result[name] = encoded(network.encoder, variables["params"], variables["batch_stats"], name, image).pooled
        if vectors == "projected":
            assert network.projection is not None  # `check_vectors`
            head = ProjectionHead(network.projection.hidden, network.projection.dim)
            projected: Any = head.apply({"params": variables["params"][f"{name}_head"]}, result[name])
            result[name] = projected
    return result


def load(workdir_or_export: str | os.PathLike, step: int = -1) -> Encoder:
    """Returns the encoders of a finished run or of an export.

    Args:
      workdir_or_export: the workdir of a run of any task with encoders, or a folder that
        `python -m dual_encoder.export` has written. An export has one encoder and no projection head.
      step: checkpoint of a run; -1 is the one that the run chose, or else the newest sound one.

    Raises:
      UserError: there is neither, or it is damaged.

    >>> encoder = load("runs/pretrain")
    >>> encoder.bands["s1"], encoder.units["s1"], encoder.vectors
    (('VV', 'VH'), 'dB (sigma0, GRD)', ('projected', 'pooled'))
    """
    folder = pathlib.Path(workdir_or_export)
    if exported.is_export(folder):
        export = exported.read(folder)
        name = export.sensor.feature
        variables = {kind: {f"{name}_encoder": export.variables.get(kind, {})} for kind in ("params", "batch_stats")}
        return Encoder({name: export.sensor}, Network(export.encoder, "late", None, variables),
                       {"task": "export", **export.origin})
    model = load_checkpoint(os.fspath(folder), step)
    config: Any = parse(AnyTask, model.config, stored=True)
    names = encoder_names(config.sensors, config.fusion)
    parts = ("_encoder", "_head") if isinstance(config, PretrainConfig) else ("_encoder",)
    modules = [f"{name}{part}" for name in names for part in parts]
    variables = {kind: {module: model.variables[kind][module] for module in modules
                        if module in model.variables.get(kind, {})} for kind in ("params", "batch_stats")}
    projection = config.projection if isinstance(config, PretrainConfig) else None
    origin = {"task": model.config["task"], **model.origin}
    return Encoder({name: model.sensors[name] for name in config.sensors},
                   Network(config.encoder, config.fusion, projection, variables), origin)
