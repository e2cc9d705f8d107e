"""One encoder of a checkpoint as a folder that timm loads: model.safetensors, config.json, README.md."""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save

from dual_encoder.errors import UserError, nearest
from dual_encoder.export import card
from dual_encoder.export.timm_weights import to_timm
from dual_encoder.sensors import SensorSpec

if TYPE_CHECKING:  # card and weights need neither Orbax nor a checkpoint
    from dual_encoder.checkpoint import LoadedModel

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
    weights = to_timm({"params": model.variables["params"][name], "batch_stats": model.variables["batch_stats"][name]})
    description = describe(weights, spec, _patch_size(model, sensor)) | {"dual_encoder": {
        "sensor": spec.to_json(), "step": model.step, "code_version": model.code_version,
        "dataset": {key: model.dataset[key] for key in ("name", "config", "version", "fingerprint", "source")}}}
    contents = (save(weights, metadata={"format": "pt"}), _json(description),
                card.write(model, sensor, description).encode())
    return _write_folder(pathlib.Path(out), dict(zip(_FILES, contents, strict=True)))


def describe(weights: Mapping[str, np.ndarray], spec: SensorSpec, patch_size: int) -> dict[str, Any]:
    """Returns timm's config.json of an encoder, JSON types only.

    `pretrained_cfg.mean` and `.std` are in the physical unit of the sensor (reflectance, dB), as timm's own are of
    images scaled to [0, 1]; timm never applies them by itself. `model_args.channels` is given for a width that is not
    64; timm builds a stem of 64 channels all the same and refuses such weights (the card says how to load them).

    Args:
      weights: what `to_timm` returned.
      spec: the sensor; stored integers x `spec.scale` = physical unit.
      patch_size: pixels of a training image's side.
    """
    width, bands = weights["conv1.weight"].shape[:2]
    assert bands == len(spec.bands), f"{bands} input channels, {len(spec.bands)} bands"
    depth = 50 if "layer1.0.conv3.weight" in weights else 34 if "layer1.2.conv1.weight" in weights else 18
    channels = {} if width == 64 else {"channels": [width * 2**layer for layer in range(4)]}
    return {
        "architecture": f"resnet{depth}",
        "num_classes": 0,
        "num_features": len(weights["layer4.0.downsample.1.weight"]),
        "pretrained_cfg": {
            "input_size": [bands, patch_size, patch_size],
            "fixed_input_size": False,
            "mean": [float(f"{value * spec.scale:.7g}") for value in spec.mean],
            "std": [float(f"{value * spec.scale:.7g}") for value in spec.std],
            "first_conv": "conv1",
            "classifier": "fc",
        },
        "model_args": {"in_chans": bands} | channels,
    }


def _patch_size(model: "LoadedModel", sensor: str) -> int:
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
