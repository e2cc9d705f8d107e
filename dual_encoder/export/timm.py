"""One encoder of a checkpoint as a folder that timm loads: model.safetensors, config.json, README.md."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from dual_encoder.errors import UserError, nearest
from dual_encoder.export import card
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.vit import HEAD
from dual_encoder.weights.timm_keys import to_timm

if TYPE_CHECKING:  # card and weights need neither Orbax nor a checkpoint
    from dual_encoder.workdir.checkpoint import LoadedModel

_FILES = ("model.safetensors", "config.json", "README.md")


def export(model: "LoadedModel", sensor: str, out: str | os.PathLike) -> list[pathlib.Path]:
    """Writes the encoder of one sensor to the folder `out`.

    Args:
      model: the checkpoint.
      sensor: feature name of the encoder, 's1' or 's2'.
      out: a local folder; made if needed. An earlier export in it is replaced.

    Returns:
      the paths of the files: float32 weights under timm's keys, timm's model description, the model card.

    Raises:
      UserError: the checkpoint has no such encoder; `out` holds something else; the disk refuses.
    """
    name = f"{sensor}_encoder"
    encoders = sorted(key.removesuffix("_encoder") for key in model.variables["params"] if key.endswith("_encoder"))
    if sensor not in encoders:
        raise UserError(f"the checkpoint has no encoder of sensor '{sensor}'; {nearest(sensor, encoders)}")
    spec = model.sensors[sensor]
    weights = to_timm({kind: model.variables[kind][name] for kind in ("params", "batch_stats")
                       if name in model.variables.get(kind, {})})
    description = describe(weights, spec, _image_size(model, sensor)) | {"dual_encoder": {
        "sensor": spec.to_json(), "step": model.step, "code_version": model.code_version,
        "dataset": {key: model.dataset[key] for key in ("name", "config", "version", "fingerprint", "source")}}}
    contents = (save(weights, metadata={"format": "pt"}), _json(description),
                card.write(model, sensor, description).encode())
    return _write_folder(pathlib.Path(out), dict(zip(_FILES, contents, strict=True)))


def describe(weights: Mapping[str, np.ndarray], spec: SensorSpec, image_size: int) -> dict[str, Any]:
    """Returns timm's config.json of an encoder, JSON types only.

    `pretrained_cfg.mean` and `.std` are in the physical unit of the sensor (reflectance, dB), as timm's own are of
    images scaled to [0, 1]; timm never applies them by itself. `model_args.channels` is given for a ResNet whose width
    is not 64; timm builds a stem of 64 channels all the same and refuses such weights (the card says how to load them).

    Args:
      weights: what `to_timm` returned.
      spec: the sensor; stored integers x `spec.scale` = physical unit.
      image_size: pixels of a training image's side.
    """
    network = _vit(weights) if "patch_embed.proj.weight" in weights else _resnet(weights)
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


def _resnet(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width = len(weights["conv1.weight"])
    third = sum(key.startswith("layer3.") and key.endswith(".conv1.weight") for key in weights)  # blocks of layer 3
    bottleneck = "layer1.0.conv3.weight" in weights
    depth = {(False, 2): 18, (False, 6): 34, (True, 6): 50, (True, 23): 101}[bottleneck, third]
    arguments = {} if width == 64 else {"channels": [width * 2**layer for layer in range(4)]}
    if "bn1.running_mean" not in weights:
        arguments["norm_layer"] = "groupnorm"
    return {"architecture": f"resnet{depth}", "num_features": len(weights["layer4.0.downsample.1.weight"]),
            "first_conv": "conv1", "classifier": "fc", "model_args": arguments}


def _vit(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The nearest of timm's names, and as arguments what differs from it; timm builds any size from them."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = sum(key.endswith(".norm1.weight") for key in weights)
    token = "cls_token" in weights
    side = math.isqrt(weights["pos_embed"].shape[1] - token)
    size = {(12, 192): "tiny", (12, 384): "small", (12, 768): "base", (24, 1024): "large"}.get((depth, width))
    arguments: dict[str, Any] = {"img_size": side * patch, "dynamic_img_size": True, "dynamic_img_pad": True}
    if patch != 16:
        arguments["patch_size"] = patch
    if size is None:
        arguments |= {"embed_dim": width, "depth": depth, "num_heads": width // HEAD}
    if not token:
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return {"architecture": f"vit_{size or 'base'}_patch16_224", "num_features": width,
            "first_conv": "patch_embed.proj", "classifier": "head", "model_args": arguments}


def _image_size(model: "LoadedModel", sensor: str) -> int:
    """The side of the random crop, or of the stored image where nothing is cropped."""
    return model.config["augment"]["crop"] or model.dataset["tensors"][sensor]["shape"][0]


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _write_folder(out: pathlib.Path, files: Mapping[str, bytes]) -> list[pathlib.Path]:
    """Writes every file aside before the first is put in place, so that a full disk leaves an earlier export alone."""
    try:
        # Hidden files may stay: a version control folder, or what a killed export left.
        if out.is_dir() and not _is_export(out) and any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"'{out}' holds files of something else; give an empty or new folder as --out")
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as aside:
            for name, data in files.items():
                with open(os.path.join(aside, name), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                os.replace(os.path.join(aside, name), out / name)
    except OSError as error:
        raise UserError(f"cannot write the export to '{out}': {error.strerror}; make room there or give another "
                        "folder as --out") from error
    return [out / name for name in files]


def _is_export(folder: pathlib.Path) -> bool:
    try:
        return "dual_encoder" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
