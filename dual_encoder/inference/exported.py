"""Reads a folder that `python -m dual_encoder.export --format=timm` has written back into our own encoder."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file

from dual_encoder.config import parse
from dual_encoder.errors import UserError, one_line
from dual_encoder.export import folder as export_folder
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.weights.timm_keys import from_timm

_VITS = {"tiny": (12, 192), "small": (12, 384), "base": (12, 768), "large": (24, 1024)}


class Export(NamedTuple):
    """The encoder of an export.

    Attributes:
      sensor: of its images.
      encoder: architecture.
      variables: {'params', 'batch_stats'} of the encoder alone.
      origin: step, code_version and dataset of the training run.
    """

    sensor: SensorSpec
    encoder: AnyEncoder
    variables: Mapping[str, Any]
    origin: Mapping[str, Any]


def is_export(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds an export of an encoder."""
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def read(folder: pathlib.Path) -> Export:
    """Reads an export, after a comparison with its digests.

    Raises:
      UserError: a file is missing or damaged, or was not written by this project.
    """
    export_folder.check(folder)
    try:
        description = json.loads((folder / "config.json").read_text())
        ours = description["dual_encoder"]
        sensor, encoder = SensorSpec.from_json(ours["sensor"]), architecture(description)
        weights = load_file(folder / "model.safetensors")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder}' is no export of this project ({type(error).__name__}: {one_line(error)}); export "
                        "the encoder again with `python -m dual_encoder.export`") from error
    image = jnp.zeros((1, 64, 64, len(sensor.bands)))
    template = jax.eval_shape(lambda key: encoder.make().init(key, image, False), jax.random.key(0))
    return Export(sensor, encoder, from_timm(weights, template),
                  {key: ours[key] for key in ("step", "code_version", "dataset")})


def architecture(description: Mapping[str, Any]) -> AnyEncoder:
    """Returns our configuration of the network that timm's config.json describes, in float32."""
    name, arguments = description["architecture"], description["model_args"]
    common = {"remat": False, "dtype": "float32"}
    if name.startswith("resnet"):
        return parse(AnyEncoder, common | {
            "family": "resnet", "depth": int(name.removeprefix("resnet")), "width": arguments.get("channels", [64])[0],
            "norm": "group" if "norm_layer" in arguments else "batch"})
    depth, width = _VITS[name.split("_")[1]]
    return parse(AnyEncoder, common | {
        "family": "vit", "depth": arguments.get("depth", depth), "width": arguments.get("embed_dim", width),
        "patch": arguments.get("patch_size", 16), "image_size": arguments["img_size"],
        "pool": "token" if arguments.get("class_token", True) else "mean",
        "positions": "learned"})  # fixed ones are stored, too
