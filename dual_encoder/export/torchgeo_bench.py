"""One encoder as a model of torchgeo-bench: timm's files, code of the model, and its entry for the command line."""

import json
from collections.abc import Mapping
from typing import Any

from dual_encoder.export import timm
from dual_encoder.export.card_code import code
from dual_encoder.export.shipped import PREPARATION, copies
from dual_encoder.export.source import Content, Source

CODE = PREPARATION | {"torchgeo_bench_model.py": "torchgeo_bench_model.py"}
ENTRY = "conf/model/dual_encoder.yaml"


def write(source: Source) -> Content:
    """Returns the encoder of one sensor; UserError as of `timm.write`, and for a ResNet that timm cannot build."""
    weights, described, spec = timm.encoder(source, "torchgeo-bench")
    loading = code(load, {source.sensor: ((1, 128, 128, len(spec.bands)), "float32")}, [f"{source.sensor}_vector"])
    loading += f"""

The command line of torchgeo-bench 0.4.0 (Python 3.12) finds the model by these two folders:

    PYTHONPATH=FOLDER torchgeo-bench run --config-dir=FOLDER/conf model=dual_encoder \\
      dataset.normalization=identity dataset.bands=all dataset.names=[eurosat]

`{ENTRY}` has the keys `unit`, `missing` and `band_names`. The model picks its bands by name,
tells the unit of the data set from its statistics, and normalises as in training. A band that the data set lacks is an
error, unless `missing` names it. Names that the statistics contradict are an error, too: in 0.4.0, those of m-eurosat
after B08, and VV and VH of benv2."""
    content = timm.content(source, weights, described, loading, source.left_out(), "timm")
    entry = f"""# A model of torchgeo-bench; README.md has the command.
_target_: torchgeo_bench_model.Encoder
name: {json.dumps("dual_encoder " + spec.name)}  # in the table of results
unit: ""         # of the data: physical (dB, reflectance), stored (reflectance x 10000), power; "" = by statistics
missing: []      # bands that the data lack, as [B01]; they get their mean
band_names: []   # names of all bands of the data in order, as [B01, B02], if torchgeo-bench names them wrongly
eval:
  segmentation:
    layers: [{", ".join(_layers(described["architecture"], described["model_args"]))}]
"""
    return content._replace(input="physical", files={**content.files, **copies(CODE), ENTRY: entry.encode()}, outputs={
        key: text for key, text in content.outputs.items() if key.endswith("_vector")})


def _layers(architecture: str, arguments: Mapping[str, Any]) -> list[str]:
    """Returns the names of four modules whose maps segmentation takes, the deepest first."""
    if architecture.startswith("resnet"):
        return [f"layer{number}" for number in (4, 3, 2, 1)]
    depth = timm.depth(architecture, arguments)
    return [f"blocks.{number}" for number in timm.four_of(depth)[::-1]]


def load(folder):
    """Returns a function: images in physical units by name to the vector."""
    import json
    import runpy

    import torch
    from torchgeo_bench.datasets.base import BandSpec

    with open(f"{folder}/config.json") as file:
        sensor = json.load(file)["dual_encoder"]["sensor"]
    bands = [BandSpec("s1" if sensor["modality"] == "sar" else "s2", band.lower(), band, mean=0, std=1, min=0, max=1)
             for band in sensor["bands"]]  # torchgeo-bench gives those of its data set
    model = runpy.run_path(f"{folder}/torchgeo_bench_model.py")["Encoder"](bands, unit="physical").eval()

    def answer(images):
        (name, image), = images.items()
        with torch.no_grad():
            vector = model(torch.from_numpy(image).permute(0, 3, 1, 2).contiguous())
        return {f"{name}_vector": vector.numpy()}

    return answer
