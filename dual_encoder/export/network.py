"""The function that an export computes: one encoder, all encoders of a run, or a whole fine-tuned model, in float32."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from dual_encoder.config import parse
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.data.shapes import Shapes
from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.sensors import SensorSpec, before
from dual_encoder.models.dual_encoder import ProjectionHead
from dual_encoder.models.fusion import encoder_images, encoder_names
from dual_encoder.tasks.build import AnyTask, make_task
from dual_encoder.tasks.classify import ClassifyConfig
from dual_encoder.tasks.downstream import DownstreamConfig, only_available
from dual_encoder.tasks.pretrain import PretrainConfig
from dual_encoder.tasks.probe import encoded
from dual_encoder.tasks.segment import SegmentConfig
from dual_encoder.workdir.checkpoint import LoadedModel

BOTH = "both"  # the value of --sensor for all images of a run
_MEANINGS = {"vector": "the vector of the image, [batch, channels]",
             "map": "the deepest feature map, [batch, rows, columns, channels]",
             "embedding": "the projection that the loss compared, by the cosine, [batch, channels]"}


@dataclasses.dataclass(frozen=True)
class Network:
    """A pure function of images, with its weights.

    Attributes:
      kind: 'encoder', 'segmentation' or 'classification'.
      inputs: name of an image -> its sensor. All images of a call have one height and width.
      outputs: name of an output -> its meaning, a phrase for the card.
      variables: {'params', 'batch_stats'}, the weights that the function reads, float32.
      apply: (variables, normalised images [batch, height, width, bands] float32) -> outputs, float32.
      classes: names of the classes; empty for encoders.
    """

    kind: str
    inputs: Mapping[str, SensorSpec]
    outputs: Mapping[str, str]
    variables: Mapping[str, Any]
    apply: Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]
    classes: tuple[str, ...] = ()


def of_run(model: LoadedModel, sensor: str) -> Network:
    """Returns what a checkpoint computes from the images of a sensor.

    A pre-training run gives its encoders: per encoder the vector of the image, its embedding and the deepest feature
    map. A fine-tuned run gives the whole model with its decoder or classifier.

    Args:
      model: the checkpoint.
      sensor: name of the images, such as 's1', or 'both' for all images that the run takes.

    Raises:
      UserError: the run has no such images, or its model needs others, too.
    """
    config: AnyTask = parse(AnyTask, model.config, stored=True)
    encoder = dataclasses.replace(config.encoder, dtype="float32", remat=False)
    config = dataclasses.replace(config, encoder=encoder)
    if not isinstance(config, PretrainConfig | SegmentConfig | ClassifyConfig):
        raise UserError(f"a run of task '{model.config['task']}' cannot be exported as a whole; use --format=timm for "
                        "one of its encoders")
    names = config.sensors if sensor == BOTH else (sensor,)
    if sensor != BOTH and sensor not in config.sensors:
        raise UserError(f"the run has no images of sensor '{sensor}'; {nearest(sensor, (*config.sensors, BOTH))}")
    if isinstance(config, DownstreamConfig):
        return _downstream(config, model, names)
    return _encoders(config, model, names)


def of_encoder(model: LoadedModel, sensor: str) -> Network:
    """Returns the vector and the deepest map of the encoder of one sensor, of a run of any task."""
    config: AnyTask = parse(AnyTask, model.config, stored=True)
    encoder = dataclasses.replace(config.encoder, dtype="float32", remat=False)

    def apply(variables: Any, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return _features(encoder, variables, sensor, images[sensor])

    return Network("encoder", {sensor: model.sensors[sensor]},
                   {f"{sensor}_{name}": _MEANINGS[name] for name in ("vector", "map")},
                   _only(model.variables, [f"{sensor}_encoder"]), apply)


def _features(encoder: Any, variables: Any, name: str, image: jax.Array) -> dict[str, jax.Array]:
    features = encoded(encoder, variables["params"], variables.get("batch_stats", {}), name, image)
    return {f"{name}_vector": features.pooled, f"{name}_map": features.maps[-1]}


def _encoders(config: PretrainConfig, model: LoadedModel, names: tuple[str, ...]) -> Network:
    if config.fusion == "early" and names != config.sensors:
        raise UserError(f"the encoder takes the stacked bands of {' and '.join(config.sensors)}; give --sensor={BOTH}")
    encoders = encoder_names(names, config.fusion)
    projection = config.projection
    head = ProjectionHead(projection.hidden, projection.dim)

    def apply(variables: Any, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        outputs: dict[str, jax.Array] = {}
        for name, image in encoder_images(images, names, config.fusion).items():
            features = _features(config.encoder, variables, name, image)
            embedding: Any = head.apply({"params": variables["params"][f"{name}_head"]}, features[f"{name}_vector"])
            outputs |= features | {f"{name}_embedding": embedding}
        return outputs

    variables = _only(model.variables, [f"{name}_{part}" for name in encoders for part in ("encoder", "head")])
    return Network("encoder", {name: model.sensors[name] for name in names},
                   {f"{name}_{output}": text for name in encoders for output, text in _MEANINGS.items()},
                   variables, apply)


def _downstream(config: SegmentConfig | ClassifyConfig, model: LoadedModel, names: tuple[str, ...]) -> Network:
    if names != config.sensors and not config.sensor_dropout:
        raise UserError(f"the fine-tuned model takes the images of {' and '.join(config.sensors)} together; give "
                        f"--sensor={BOTH}")
    task: Any = make_task(config, model.sensors, Shapes(DatasetInfo.from_json({**model.dataset, "shards": {}})), None)
    change = isinstance(config, SegmentConfig) and config.change != "none"
    bands = {name: len(model.sensors[name].bands) for name in config.sensors}

    def apply(variables: Any, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        if change:
            images = {name: jnp.stack([images[before(name)], images[name]], axis=1) for name in names}
        shape = images[names[0]].shape
        images = {name: images[name] if name in names else jnp.zeros((*shape[:-1], bands[name]))
                  for name in config.sensors}
        available = only_available(config.encoders, () if names == config.sensors else names, 1)
        if available is not None:
            available = jnp.broadcast_to(available, (shape[0], len(config.encoders)))
        return {"logits": task.model.apply(variables, images, False, available)}

    inputs = {name: model.sensors[name] for name in names}
    if change:
        inputs = {image: spec for name, spec in inputs.items() for image in (before(name), name)}
    if isinstance(config, SegmentConfig):
        kind, output = "segmentation", ("logits [batch, height, width, classes]; their largest is the class of a "
                                        "pixel, and a softmax makes probabilities of them")
    else:
        kind, output = "classification", "logits [batch, classes]; " + (
            "a softmax makes probabilities of them" if task.single else "a sigmoid makes a probability of each")
    modules = list(model.variables["params"])
    return Network(kind, inputs, {"logits": output}, _only(model.variables, modules), apply, tuple(task.classes))


def outputs_of(network: Network, images: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the outputs for normalised images, computed in float32 on every device, also one with faster products."""
    with jax.default_matmul_precision("highest"):
        return network.apply(network.variables, images)


def parameters(network: Network) -> int:
    """Returns the number of values in the weights."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(network.variables))


def _only(variables: Mapping[str, Any], modules: list[str]) -> dict[str, Any]:
    kept = {kind: {module: trees[module] for module in modules if module in trees} for kind, trees in variables.items()}
    return {kind: trees for kind, trees in kept.items() if trees}
