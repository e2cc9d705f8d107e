"""The part of the model card that shows how to load the weights; tests/test_export.py runs its code."""

from collections.abc import Mapping
from typing import Any

from dual_encoder.imagery.sensors import SensorSpec

_BLOCKS = {"resnet18": ("BasicBlock", (2, 2, 2, 2)), "resnet34": ("BasicBlock", (3, 4, 6, 3)),
           "resnet50": ("Bottleneck", (3, 4, 6, 3)), "resnet101": ("Bottleneck", (3, 4, 23, 3))}


def how_to_load(description: Mapping[str, Any], spec: SensorSpec) -> str:
    """Returns Markdown: code that loads the folder and feeds one image.

    Args:
      description: as `timm.describe` returns it.
      spec: the sensor.
    """
    bands = description["model_args"]["in_chans"]
    narrow = "channels" in description["model_args"]
    if narrow:
        note, imports, build = _narrow_resnet(description)
    else:
        note, imports = "", "import timm\nimport torch\n"
        build = 'model = timm.create_model("local-dir:" + folder, pretrained=True)\n'
    return f"""{note}```python
{imports}
folder = "."  # where this file is
{build}model.eval()
mean = torch.tensor({list(spec.mean)})[:, None, None]
std = torch.tensor({list(spec.std)})[:, None, None]
stored = torch.zeros(1, {bands}, 128, 128)  # your image: stored integers, as float
with torch.no_grad():
    features = model({_normalised(spec)})  # [1, {description["num_features"]}]
```
{"" if narrow else _feature_maps(description)}"""


def _normalised(spec: SensorSpec) -> str:
    """Returns the expression of the normalised image."""
    return f"((stored - mean) / std).clamp{spec.limits}" if spec.limits else "(stored - mean) / std"


def _narrow_resnet(description: Mapping[str, Any]) -> tuple[str, str, str]:
    """Returns a note, imports and code that builds a ResNet of a width that timm does not offer."""
    bands, channels = description["model_args"]["in_chans"], description["model_args"]["channels"]
    block, blocks = _BLOCKS[description["architecture"]]
    note = (f"This encoder is {channels[0]} channels wide at the stem. timm's ResNets are always 64 wide there, so "
            "`local-dir:` refuses it; this builds the network by hand:\n\n")
    imports = ("import timm\nimport torch\nfrom safetensors.torch import load_file\n"
               f"from timm.models.resnet import {block}, make_blocks\n")
    norm = "torch.nn.BatchNorm2d(channels, **options)"
    if "norm_layer" in description["model_args"]:
        norm = "torch.nn.GroupNorm(max(1, math.gcd(64, channels) // 2), channels, **options)"
        imports = "import math\n\n" + imports
    build = (f"\n\ndef norm(channels, **options):\n    return {norm}\n\n\n"
             f'model = timm.create_model("{description["architecture"]}", num_classes=0, in_chans={bands})\n'
             f"model.conv1 = torch.nn.Conv2d({bands}, {channels[0]}, 7, stride=2, padding=3, bias=False)\n"
             f"model.bn1 = norm({channels[0]})\n"
             f"layers, _ = make_blocks(({block},) * 4, {tuple(channels)}, {blocks}, {channels[0]}, norm_layer=norm)\n"
             "for name, layer in layers:\n"
             "    setattr(model, name, layer)\n"
             'missing, unexpected = model.load_state_dict(load_file(folder + "/model.safetensors"), strict=False)\n'
             'assert not unexpected and all(key.endswith("num_batches_tracked") for key in missing)\n')
    return note, imports, build


def _feature_maps(description: Mapping[str, Any]) -> str:
    arguments = description["model_args"]
    others = ""
    if "img_size" in arguments:
        maps = f"maps of some blocks (`out_indices=`), all of stride {arguments.get('patch_size', 16)},"
    else:
        maps = "five feature maps, strides 2 to 32,"
        if "norm_layer" not in arguments:
            others = " torchgeo, TerraTorch and others take the same keys (`model.safetensors`, torchvision names)."
    given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"""
`timm.create_model("local-dir:" + folder, pretrained=True, features_only=True)` gives {maps} for segmentation. Without
`config.json`, `timm.create_model("{description["architecture"]}", num_classes=0, {given})` builds what the weights
fit.{others}"""
