"""One encoder for PANGAEA-bench: timm's files, code of the encoder, and its configurations."""

import json
import re

from dual_encoder.export import timm
from dual_encoder.export.card_code import code
from dual_encoder.export.shipped import PREPARATION, copies
from dual_encoder.export.source import Content, Source

CODE = PREPARATION | {"pangaea_encoder.py": "pangaea_encoder.py"}
ENCODER, PREPROCESSING = "conf/encoder/dual_encoder.yaml", "conf/preprocessing/dual_encoder.yaml"


def write(source: Source) -> Content:
    """Returns the encoder of one sensor; UserError as of `timm.write`, and for a ResNet that timm cannot build."""
    weights, described, spec = timm.encoder(source, "PANGAEA-bench")
    loading = code(load, {source.sensor: ((1, 128, 128, len(spec.bands)), "float32")}, [f"{source.sensor}_map"])
    loading += f"""

The command line of PANGAEA-bench finds the encoder by these two folders:

    PYTHONPATH=FOLDER torchrun pangaea/run.py --config-name=train --config-dir=FOLDER/conf \\
      encoder=dual_encoder preprocessing=dual_encoder dataset=sen1floods11 decoder=seg_upernet ...

State the unit of the data set as `encoder.unit=`: stored (reflectance x 10000, as in sen1floods11), physical
(reflectance, as in hlsburnscars; dB) or power. The encoder normalises as in training, so `{PREPROCESSING}` neither
normalises nor fills bands up with zeros. A band that the data set lacks is an error, unless `encoder.missing=[B1]`
names it; it gets its mean."""
    content = timm.content(source, weights, described, loading, source.left_out(), "timm")
    channels, pyramid = described["num_features"], described["architecture"].startswith("resnet")
    layers = [1, 2, 3, 4] if pyramid else timm.four_of(timm.depth(described["architecture"], described["model_args"]))
    bands = [re.sub(r"^B0(\d)$", r"B\1", band) for band in spec.bands]
    encoder = f"""# An encoder of PANGAEA-bench; README.md has the command.
_target_: pangaea_encoder.Encoder
input_size: {source.image_size}
input_bands:
  {"sar" if spec.modality == "sar" else "optical"}: {json.dumps(bands)}
embed_dim: {channels}
output_layers: {layers}
output_dim: {[channels // 8, channels // 4, channels // 2, channels] if pyramid else [channels] * 4}
pyramid_output: {str(pyramid).lower()}
unit: {"physical" if spec.modality == "sar" else "stored"}  # of the data set: stored, physical or power
missing: []  # bands that the data set lacks
"""
    return content._replace(input="physical", files={
        **content.files, **copies(CODE), ENCODER: encoder.encode(), PREPROCESSING: _PREPROCESSING.encode()}, outputs={
        key: text for key, text in content.outputs.items() if key.endswith("_map")})


_PREPROCESSING = """# Crops and picks bands by name. The encoder of dual_encoder normalises by itself.
train:
  _target_: pangaea.engine.data_preprocessor.Preprocessor
  preprocessor_cfg:
    - _target_: pangaea.engine.data_preprocessor.RandomCropToEncoder
    - _target_: pangaea.engine.data_preprocessor.BandFilter
val: &whole
  _target_: pangaea.engine.data_preprocessor.Preprocessor
  preprocessor_cfg:
    - _target_: pangaea.engine.data_preprocessor.BandFilter
test: *whole
"""


def load(folder):
    """Returns a function: images in physical units by name to the deepest map."""
    import runpy

    import torch
    from omegaconf import OmegaConf

    arguments = OmegaConf.to_container(OmegaConf.load(f"{folder}/conf/encoder/dual_encoder.yaml"))
    arguments = {key: value for key, value in arguments.items() if key != "_target_"} | {"unit": "physical"}
    model = runpy.run_path(f"{folder}/pangaea_encoder.py")["Encoder"](**arguments).eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            maps = model({model.modality: torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()})
        return {f"{name}_map": maps[-1].permute(0, 2, 3, 1).numpy()}

    return answer
