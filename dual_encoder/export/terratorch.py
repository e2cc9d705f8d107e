"""One encoder as a backbone of TerraTorch: timm's files, code that registers it, and a configuration of fine-tuning."""

import json
from collections.abc import Mapping
from typing import Any

from dual_encoder.export import timm
from dual_encoder.export.card_code import code
from dual_encoder.export.shipped import PREPARATION, copies
from dual_encoder.export.source import Content, Source
from dual_encoder.imagery.sensors import SensorSpec

CODE = PREPARATION | {"custom_modules/__init__.py": "terratorch_backbone.py"}
FIT = "fit.yaml"


def write(source: Source) -> Content:
    """Returns the encoder of one sensor; UserError as of `timm.write`, and for a ResNet that timm cannot build."""
    weights, described, spec = timm.encoder(source, "TerraTorch")
    loading = code(load, {source.sensor: ((1, 128, 128, len(spec.bands)), "float32")}, [f"{source.sensor}_map"])
    loading += f"""

`{FIT}` fine-tunes the encoder for segmentation of GeoTIFFs, images and labels in folders of their own:

    terratorch fit --config FOLDER/{FIT} --custom_modules_path FOLDER/custom_modules \\
      --data.init_args.train_data_root=train/images --data.init_args.train_label_data_root=train/labels ...

Its `backbone_unit` is the unit of the images: `physical` (dB, reflectance), `stored` (the integers of the training, as
reflectance x 10000) or `power`. The backbone then normalises as in training and sets pixels without data to 0, so the
data module must not normalise. Without `backbone_unit`, give the data module the mean and std below."""
    content = timm.content(source, weights, described, loading, source.left_out(), "terratorch")
    return content._replace(files={**content.files, **copies(CODE), FIT: _fit(described, spec).encode()},
                            outputs={key: text for key, text in content.outputs.items() if key.endswith("_map")})


def load(folder):
    """Returns a function: normalised images [batch, height, width, bands] by name to the deepest map."""
    import runpy

    import torch
    from terratorch.registry import BACKBONE_REGISTRY

    runpy.run_path(f"{folder}/custom_modules/__init__.py")  # as --custom_modules_path of TerraTorch does
    model = BACKBONE_REGISTRY.build("dual_encoder", folder=folder).eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            maps = model(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
        return {f"{name}_map": maps[-1].permute(0, 2, 3, 1).numpy()}

    return answer


def _fit(described: Mapping[str, Any], spec: SensorSpec) -> str:
    """Returns the configuration of `terratorch fit`."""
    bands = json.dumps(spec.bands)
    shown = [spec.bands.index(band) for band in spec.rgb] or [0, 0, 0]
    if described["architecture"].startswith("resnet"):
        decoder = """decoder: UNetDecoder
      decoder_channels: [256, 128, 64, 32, 16]"""
    else:
        blocks = timm.four_of(timm.depth(described["architecture"], described["model_args"]))
        decoder = f"""backbone_out_indices: {blocks}
      necks:
        - name: LearnedInterpolateToPyramidal
      decoder: UperNetDecoder
      decoder_channels: 128"""
    return f"""# Fine-tunes the encoder of this folder for segmentation; README.md has the command.
seed_everything: 0
trainer:
  max_epochs: 50
  precision: 32-true
data:
  class_path: GenericNonGeoSegmentationDataModule
  init_args:
    batch_size: 8
    num_workers: 2
    num_classes: 2
    train_data_root: train/images
    train_label_data_root: train/labels
    val_data_root: val/images
    val_label_data_root: val/labels
    test_data_root: test/images
    test_label_data_root: test/labels
    dataset_bands: {bands}  # of the files, in order
    output_bands: {bands}  # of the encoder
    rgb_indices: {shown}
    means: {[0.0] * len(spec.bands)}  # the backbone normalises
    stds: {[1.0] * len(spec.bands)}
model:
  class_path: terratorch.tasks.SemanticSegmentationTask
  init_args:
    model_factory: EncoderDecoderFactory
    model_args:
      backbone: dual_encoder
      backbone_unit: physical  # of the files: physical, stored or power
      backbone_bands: {bands}
      {decoder}
      num_classes: 2
    loss: ce
    ignore_index: 255
    freeze_backbone: false
    plot_on_val: false
optimizer:
  class_path: torch.optim.AdamW
  init_args:
    lr: 1.0e-4
"""
