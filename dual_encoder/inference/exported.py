"""Reads a folder that `python -m dual_encoder.export --format=timm` has written back into our own encoder."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from safetensors.numpy import load_file

from dual_encoder.errors import UserError, one_line
from dual_encoder.export import folder as export_folder
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.weights import layouts, published


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
        ours = json.loads((folder / "config.json").read_text())["dual_encoder"]
        sensor, weights = SensorSpec.from_json(ours["sensor"]), load_file(folder / "model.safetensors")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder}' is no export of this project ({type(error).__name__}: {one_line(error)}); export "
                        "the encoder again with `python -m dual_encoder.export`") from error
    encoder = published.encoder(weights, layouts.layout("timm"))  # fixed positions are stored, too
    return Export(sensor, encoder, published.variables(weights, encoder),
                  {key: ours[key] for key in ("step", "code_version", "dataset")})
