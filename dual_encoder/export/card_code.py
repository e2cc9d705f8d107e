"""The part of the model card that shows how to load an export; tests run its code as it stands."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dual_encoder.export.narrow_resnet import narrow_resnet
from dual_encoder.imagery.sensors import SensorSpec


def code(load: Callable[[str], Any], images: Mapping[str, tuple[tuple[int, ...], str]], outputs: Iterable[str]) -> str:
    """Returns Markdown: the code of `load`, and a call of what it returns.

    Args:
      load: folder -> function of images by name to outputs by name; its code needs nothing from its module.
      images: name -> shape and dtype of an image.
      outputs: names.
    """
    shown = ", ".join(f'"{name}": np.zeros({shape}, "{dtype}")' for name, (shape, dtype) in images.items())
    return f"""```python
import numpy as np


{inspect.getsource(load)}

model = load(".")  # where this file is
images = {{{shown}}}  # your images
outputs = model(images)  # {", ".join(outputs)}
```"""


def how_to_load(description: Mapping[str, Any], spec: SensorSpec) -> str:
    """Returns Markdown: code that loads the folder and feeds one image.

    Args:
      description: as `timm.describe` returns it.
      spec: the sensor.
    """
    bands = description["model_args"]["in_chans"]
    narrow = "channels" in description["model_args"]
    if narrow:
        note = (f"This encoder is {description['model_args']['channels'][0]} channels wide at the stem. timm's ResNets "
                "are always 64 wide there, so `local-dir:` refuses it; this builds the network by hand:\n\n")
        imports = f"import torch\n\n\n{inspect.getsource(narrow_resnet)}\n"
        build = "model = narrow_resnet(folder)\n"
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
{"" if narrow else _feature_maps(description)}
{trap(bands)}"""


def _normalised(spec: SensorSpec) -> str:
    """Returns the expression of the normalised image."""
    return f"((stored - mean) / std).clamp{spec.limits}" if spec.limits else "(stored - mean) / std"


def trap(bands: int) -> str:
    """Returns Markdown: the warning that timm accepts any number of bands."""
    return f"""
**Trap:** timm accepts any other `in_chans` for these weights without an error and re-mixes the first convolution. The
numbers that come out mean nothing. Give all {bands} bands, in the order above."""


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
