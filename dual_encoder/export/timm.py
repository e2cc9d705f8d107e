"""One encoder of a checkpoint as a folder that timm loads: model.safetensors, config.json, README.md."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from dual_encoder.errors import UserError, nearest
from dual_encoder.export import card
from dual_encoder.export.card_code import how_to_load
from dual_encoder.export.folder import Exported, write_folder
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.weights.timm_keys import describe_network, to_timm

if TYPE_CHECKING:  # card and weights need neither Orbax nor a checkpoint
    from dual_encoder.workdir.checkpoint import LoadedModel

_FILES = ("model.safetensors", "config.json", "README.md")


def export(model: "LoadedModel", sensor: str, out: str | os.PathLike) -> Exported:
    """Writes the encoder of one sensor to the folder `out`.

    Args:
      model: the checkpoint.
      sensor: feature name of the encoder, 's1' or 's2'.
      out: a local folder; made if needed. An earlier export in it is replaced.

    Returns:
      the files: float32 weights under timm's keys, timm's model description, the model card, digests.

    Raises:
      UserError: the checkpoint has no such encoder, or one of stacked sensors; `out` holds something else; the disk
        refuses.
    """
    name = f"{sensor}_encoder"
    encoders = sorted(key.removesuffix("_encoder") for key in model.variables["params"] if key.endswith("_encoder"))
    if sensor not in encoders:
        raise UserError(f"the checkpoint has no encoder of sensor '{sensor}'; {nearest(sensor, encoders)}")
    if sensor not in model.sensors:
        stacked = " and ".join(sorted(model.sensors))
        raise UserError(f"'{name}' takes the stacked bands of {stacked}; an export describes the bands of one sensor, "
                        "so only encoders of runs with config.fusion=late can be exported")
    spec = model.sensors[sensor]
    weights = to_timm({kind: model.variables[kind][name] for kind in ("params", "batch_stats")
                       if name in model.variables.get(kind, {})})
    description = describe(weights, spec, _image_size(model, sensor)) | {"dual_encoder": {
        "sensor": spec.to_json(), "step": model.step, "code_version": model.code_version,
        "dataset": {key: model.dataset[key] for key in ("name", "config", "version", "fingerprint", "source")}}}
    contents = (save(weights, metadata={"format": "pt"}), _json(description),
                card.write(model, sensor, description, "timm", how_to_load(description, spec)).encode())
    channels = description["model_args"].get("channels")
    note = (f"the stem is {channels[0]} channels wide; timm's local-dir loader only takes 64. The card shows how to "
            "load it" if channels else "")
    return Exported(write_folder(pathlib.Path(out), dict(zip(_FILES, contents, strict=True))), note)


def describe(weights: Mapping[str, np.ndarray], spec: SensorSpec, image_size: int) -> dict[str, Any]:
    """Returns timm's config.json of an encoder, JSON types only.

    `pretrained_cfg.mean` and `.std` are in the physical unit of the sensor (reflectance, dB), as timm's own are of
    images scaled to [0, 1]; timm never applies them by itself. `model_args.channels` is given for a ResNet whose width
    is not 64; timm builds a stem of 64 channels all the same and refuses such weights (the card says how to load them).

    Args:
      weights: as `to_timm` returns them.
      spec: the sensor; stored integers x `spec.scale` = physical unit.
      image_size: pixels of a training image's side.
    """
    network = describe_network(weights)
    bands = weights[f"{network['first_conv']}.weight"].shape[1]
    assert bands == len(spec.bands), f"{bands} input channels, {len(spec.bands)} bands"
    return {
        "architecture": network["architecture"],
        "num_classes": 0,
        "num_features": network["num_features"],
        "pretrained_cfg": {
            "input_size": [bands, image_size, image_size],
            "fixed_input_size": False,
            "mean": [float(f"{value * spec.scale:.7g}") for value in spec.mean],
            "std": [float(f"{value * spec.scale:.7g}") for value in spec.std],
            "first_conv": network["first_conv"],
            "classifier": network["classifier"],
        },
        "model_args": {"in_chans": bands} | network["model_args"],
    }


def _image_size(model: "LoadedModel", sensor: str) -> int:
    """Returns the side of the random crop in pixels, or of the stored image if nothing is cropped."""
    return model.config["augment"]["crop"] or model.dataset["tensors"][sensor]["shape"][0]


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
