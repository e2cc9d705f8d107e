"""An exported encoder as a backbone of TerraTorch. An export holds a copy: custom_modules/__init__.py."""

import json
import pathlib
import runpy

import timm
import torch
from terratorch.registry import TERRATORCH_BACKBONE_REGISTRY

# TerraTorch's names of the bands of Sentinel-2.
_BANDS = {"B01": "COASTAL_AEROSOL", "B02": "BLUE", "B03": "GREEN", "B04": "RED", "B05": "RED_EDGE_1",
          "B06": "RED_EDGE_2", "B07": "RED_EDGE_3", "B08": "NIR_BROAD", "B8A": "NIR_NARROW", "B09": "WATER_VAPOR",
          "B10": "CIRRUS", "B11": "SWIR_1", "B12": "SWIR_2"}


class _Backbone(torch.nn.Module):
    """Feature maps of a timm model; `out_channels` are their channels, as TerraTorch's necks and decoders want them."""

    def __init__(self, model, prepare):
        super().__init__()
        self.model, self.out_channels, self.prepare = model, model.feature_info.channels(), prepare

    def train(self, mode=True):
        """As of `torch.nn.Module`, but a frozen model keeps the statistics of its BatchNorm."""
        super().train(mode)
        if not any(value.requires_grad for value in self.model.parameters()):
            self.model.eval()
        return self

    def forward(self, image, **kwargs):
        """[batch, bands, height, width] -> a list of maps [batch, channels, rows, columns]."""
        return list(self.model(self.prepare(image)))


@TERRATORCH_BACKBONE_REGISTRY.register
def dual_encoder(folder=None, pretrained=True, bands=None, out_indices=None, unit=None, **kwargs):
    """Returns the encoder of an exported folder.

    Args:
      folder: of the export; None: the folder above this file's.
      pretrained: load the weights.
      bands: names of the bands of the data, TerraTorch's or ours, to compare with those of the encoder.
      out_indices: numbers of the maps; None: all.
      unit: of the images, which the backbone then normalises: 'physical' (dB, reflectance), 'stored' (the integers of
        the training, as reflectance x 10000) or 'power'. None: the data module normalises them.

    Raises:
      ValueError: other bands, or in another order; another unit.
    """
    folder = pathlib.Path(folder or pathlib.Path(__file__).parent.parent).resolve()
    own = json.loads((folder / "config.json").read_text())["dual_encoder"]["sensor"]["bands"]
    if bands is not None:
        named = [str(getattr(band, "value", band)) for band in bands]
        if [_BANDS.get(band, band) for band in named] != [_BANDS.get(band, band) for band in own]:
            raise ValueError(f"the data have the bands {named}, the encoder takes {own}, in this order")
    chosen = {} if out_indices is None else {"out_indices": tuple(out_indices)}
    model = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, features_only=True, **chosen, **kwargs)
    if unit is None:
        return _Backbone(model, torch.nn.Identity())
    return _Backbone(model, runpy.run_path(str(folder / "preparation.py"))["Preparation"](folder, own, unit))
