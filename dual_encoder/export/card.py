"""The model card: all that one needs to feed an exported encoder correctly, as README.md."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dual_encoder.sensors import SensorSpec

if TYPE_CHECKING:
    from dual_encoder.checkpoint import LoadedModel

_BLOCKS = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet34": ("BasicBlock", (3, 4, 6, 3)),
           "resnet50": ("Bottleneck", (3, 4, 6, 3))}


def write(model: "LoadedModel", sensor: str, description: Mapping[str, Any]) -> str:
    """Returns the card of one encoder as Markdown.

    Args:
      model: the checkpoint that the encoder comes from.
      sensor: its feature name, 's1' or 's2'.
      description: what `timm_folder.describe` returned.
    """
    spec = model.sensors[sensor]
    bands = description["model_args"]["in_chans"]
    patch = description["pretrained_cfg"]["input_size"][1]
    others = [f"{name} ({other.name})" for name, other in sorted(model.sensors.items()) if name != sensor]
    purpose = {"pretrain": "by contrastive pre-training on co-located image pairs",
               "finetune": "by fine-tuning for segmentation"}[model.config["task"]]
    return f"""---
library_name: timm
tags: [remote-sensing, sentinel, contrastive, {spec.modality}]
---
# {description["architecture"]} encoder of {spec.name}

{bands} input bands, {description["num_features"]} features, no classifier. Trained {purpose}\
{f", beside an encoder of {' and '.join(others)}" if others else ""}.

## Input

| | |
|---|---|
| bands, in this order | {", ".join(spec.bands)} |
| unit | {spec.unit} |
| stored as | {spec.dtype}; {_scale(spec)} |
| no data | {_no_data(spec)} |
| training images | {patch} x {patch} px; other sizes work |

Normalise each band with its own constants, **in stored integers**:

    input = (stored - mean) / std

| band | mean | std |
|---|---|---|
{chr(10).join(f"| {b} | {m:g} | {s:g} |" for b, m, s in zip(spec.bands, spec.mean, spec.std, strict=True))}

Statistics: {spec.provenance}.

{_other_units(spec)}

`config.json` gives the same mean and std in the physical unit (x {spec.scale:g}). timm never applies them by itself.

## Loading

{_loading(description, spec)}

**Trap:** timm accepts any other `in_chans` for these weights without an error and re-mixes the first convolution. The
numbers that come out mean nothing. Give all {bands} bands, in the order above.

## Provenance

| | |
|---|---|
| training step | {model.step} |
| code | dual_encoder {model.code_version} |
| data set | {" ".join(model.dataset[key] for key in ("name", "config", "version"))} |
| data fingerprint | {model.dataset["fingerprint"]} |
{chr(10).join(f"| data: {_cell(key)} | {_cell(value)} |" for key, value in sorted(model.dataset["source"].items()))}

The fingerprint names the exact records in their exact order. The licence is that of the training data; keep its
attribution with the weights.
"""


def _scale(spec: SensorSpec) -> str:
    return "the value itself" if spec.scale == 1 else f"stored integer x {spec.scale:g} = value in this unit"


def _no_data(spec: SensorSpec) -> str:
    if spec.no_data is None:
        return "this product has no such value"
    return f"a pixel whose bands are all {spec.no_data}; set it to 0 **after** normalisation (that is the mean)"


def _other_units(spec: SensorSpec) -> str:
    if spec.scale == 1:
        return "Feed the values as the product gives them; there is no other unit."
    factor = f"{1 / spec.scale:g}"
    if spec.modality == "sar":
        return (f"From dB, use `stored = {factor} * dB`; from linear power, `stored = {factor} * 10 * log10(power)`. "
                "Not-a-number and zero power are no data, never 0 dB (a very bright target).")
    return (f"From reflectance in 0..1, use `stored = {factor} * reflectance`. Products of processing baseline 04.00 "
            "and later store this number plus 1000: subtract 1000 first, or every band is shifted.")


def _loading(description: Mapping[str, Any], spec: SensorSpec) -> str:
    bands = description["model_args"]["in_chans"]
    channels = description["model_args"].get("channels")
    if channels is None:
        note, imports = "", "import timm\nimport torch\n"
        build = 'model = timm.create_model("local-dir:" + folder, pretrained=True)\n'
    else:
        block, blocks = _BLOCKS[description["architecture"]]
        note = (f"This encoder is {channels[0]} channels wide at the stem. timm's ResNets are always 64 wide there, so "
                "`local-dir:` refuses it; this builds the network by hand:\n\n")
        imports = ("import timm\nimport torch\nfrom safetensors.torch import load_file\n"
                   f"from timm.models.resnet import {block}, make_blocks\n")
        build = (f'model = timm.create_model("{description["architecture"]}", num_classes=0, in_chans={bands})\n'
                 f"model.conv1 = torch.nn.Conv2d({bands}, {channels[0]}, 7, stride=2, padding=3, bias=False)\n"
                 f"model.bn1 = torch.nn.BatchNorm2d({channels[0]})\n"
                 f"layers, _ = make_blocks(({block},) * 4, {tuple(channels)}, {blocks}, {channels[0]})\n"
                 "for name, layer in layers:\n"
                 "    setattr(model, name, layer)\n"
                 'missing, unexpected = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)\n'
                 'assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)\n')
    return f"""{note}```python
{imports}
folder = "."  # where this file is
{build}model.eval()
mean = torch.tensor({list(spec.mean)})[:, None, None]
std = torch.tensor({list(spec.std)})[:, None, None]
stored = torch.zeros(1, {bands}, 128, 128)  # your image: stored integers, as float
with torch.no_grad():
    features = model((stored - mean) / std)  # [1, {description["num_features"]}]
```
{"" if channels else _FEATURE_MAPS}"""


_FEATURE_MAPS = """
`timm.create_model("local-dir:" + folder, pretrained=True, features_only=True)` gives five feature maps, strides 2 to
32, for segmentation. torchgeo, TerraTorch and others take the same keys (`model.safetensors`, torchvision names)."""


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
