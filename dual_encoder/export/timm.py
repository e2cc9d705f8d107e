"""One encoder of a checkpoint as files that timm loads: model.safetensors and config.json."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.export.card_code import how_to_load
from dual_encoder.export.source import Content, Source
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.weights.timm_keys import describe_network, to_timm

_PURPOSES = {"pretrain": "by contrastive pre-training on co-located image pairs",
             "finetune": "by fine-tuning for segmentation", "classify": "by fine-tuning for classification"}


class Encoder(NamedTuple):
    """One encoder as timm knows it.

    Attributes:
      weights: as `to_timm` returns them.
      described: as `describe` returns it.
      spec: of its sensor.
    """

    weights: Mapping[str, np.ndarray]
    described: Mapping[str, Any]
    spec: SensorSpec


def encoder(source: Source, program: str = "") -> Encoder:
    """Returns the encoder of one sensor.

    Args:
      source: what is exported.
      program: that can build no other networks than timm, for the message; '' = a stem of any width is fine.

    Raises:
      UserError: the checkpoint has no such encoder, or one of stacked sensors; or timm or `program` cannot build it.
    """
    variables, spec = source.encoder()
    if part := parse(AnyEncoder, source.model.config["encoder"], stored=True, name="config.encoder").not_in_timm:
        raise UserError(f"the encoder has {part}, which {program or 'timm'} cannot build; use "
                        "--format=stablehlo, saved_model, onnx, npz or orbax")
    weights = to_timm(variables)
    described = describe(weights, spec, source.image_size)
    if program:
        _require_timm_size(described, program)
    return Encoder(weights, described, spec)


def write(source: Source, program: str = "") -> Content:
    """Returns the encoder of one sensor: float32 weights under timm's keys, and timm's model description.

    Arguments and errors are those of `encoder`.
    """
    weights, described, spec = encoder(source, program)
    channels = described["model_args"].get("channels")
    notes = [source.left_out(), f"the stem is {channels[0]} channels wide; timm's local-dir loader only takes 64. The "
             "card shows how to load it" if channels else ""]
    return content(source, weights, described, how_to_load(described, spec), "; ".join(filter(None, notes)))


def content(source: Source, weights: Mapping[str, np.ndarray], described: Mapping[str, Any], loading: str, note: str,
            library: str = "timm") -> Content:
    """Returns the content of an export with these weights and this description, for timm and for others.

    Args:
      source: what is exported.
      weights: as `to_timm` returns them.
      described: as `describe` returns it.
      loading, note, library: as of `Content`.
    """
    model, sensor = source.model, source.sensor
    spec = model.sensors[sensor]
    facts = {"sensor": spec.to_json(), "image": sensor, **model.origin}
    others = [f"{name} ({other.name})" for name, other in sorted(model.sensors.items()) if name != sensor]
    origin = f"Trained {_PURPOSES.get(model.config['task'], 'for the task ' + repr(model.config['task']))}"
    if model.dataset["source"].get("importer") == "import_weights":
        origin = f"Imported from published weights of layout '{model.dataset['config']}'"
    beside = f", beside an encoder of {' and '.join(others)}" if others else ""
    about = (f"{len(spec.bands)} input bands, {described['num_features']} features, no classifier. "
             f"{origin}{beside}.{_network(described)}")
    if left_out := source.left_out():
        about += f" Of a fine-tuned model: {left_out}."
    configuration = json.dumps({**described, "dual_encoder": facts}, indent=2, ensure_ascii=False) + "\n"
    return Content(
        f"{described['architecture']} encoder of {spec.name}", about, {sensor: spec}, "normalised",
        "[batch, bands, height, width]",
        {f"{sensor}_vector": f"the vector of the image, [batch, {described['num_features']}]",
         f"{sensor}_map": "the deepest feature map, [batch, channels, rows, columns]"},
        _other_sizes(described), loading,
        {"model.safetensors": save(dict(weights), metadata={"format": "pt"}), "config.json": configuration.encode()},
        lambda: source.encoder_network, library, note)


def load(folder):
    """Returns a function: normalised images [batch, height, width, bands] by name to vector and map, as our model's."""
    import json

    import timm
    import torch

    from dual_encoder.export.narrow_resnet import narrow_resnet

    with open(f"{folder}/config.json") as file:
        narrow = "channels" in json.load(file)["model_args"]
    model = narrow_resnet(folder) if narrow else timm.create_model(f"local-dir:{folder}", pretrained=True)
    model.eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            last, maps = model.forward_intermediates(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
            vector = model.forward_head(last)
        return {f"{name}_vector": vector.numpy(), f"{name}_map": maps[-1].permute(0, 2, 3, 1).numpy()}

    return answer


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


def depth(architecture: str, arguments: Mapping[str, Any]) -> int:
    """Returns the number of blocks of a ViT that `describe` described."""
    return arguments.get("depth", 24 if "_large_" in architecture else 12)


def four_of(blocks: int) -> list[int]:
    """Returns the numbers of four blocks at even distances, the last one included, as decoders take them."""
    return [blocks * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]


def _require_timm_size(described: Mapping[str, Any], name: str) -> None:
    """Raises UserError for a ResNet of a width that timm does not build."""
    if channels := described["model_args"].get("channels"):
        raise UserError(f"the stem of this ResNet is {channels[0]} channels wide, {name} builds them 64 wide; use "
                        "--format=timm, whose card has code for it, or --format=stablehlo, saved_model or onnx")


def _network(description: Mapping[str, Any]) -> str:
    """Returns facts that the name of the architecture does not contain."""
    arguments = description["model_args"]
    if "img_size" in arguments:
        vector = "its class token" if arguments.get("class_token", True) else "the mean of its tokens"
        vector = f"{vector}, after the last norm"
        if arguments.get("fc_norm"):
            vector = "the norm of the mean of its tokens, without the class token"
        size = f"{arguments['depth']} blocks of {arguments['embed_dim']} channels, p" if "depth" in arguments else "P"
        patch = arguments.get("patch_size", 16)
        return f" {size}atches of {patch} px; the vector of an image is {vector}."
    if "norm_layer" in arguments:
        return (" Its norms are GroupNorm, not BatchNorm: builders that cannot change the norm (torchvision, torchgeo) "
                "refuse these weights.")
    return ""


def _other_sizes(description: Mapping[str, Any]) -> str:
    arguments = description["model_args"]
    if "img_size" not in arguments:
        return "other sizes work"
    return (f"other sizes work: positions, kept for {arguments['img_size']} px, are interpolated, and sides that are "
            "no multiple of the patch are filled up with zeros")
