"""An exported encoder as weights of torchgeo. An export holds a copy of this file, which needs its folder only."""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torchvision.models._api import Weights, WeightsEnum


class Normalise(torch.nn.Module):
    """Physical units to the input of the encoder.

    Args:
      mean, std: per band, in the physical unit.
      no_data: value of all bands of a pixel without data, in the physical unit, or None.
      scale: physical unit per stored integer; a value within half of it is that of no-data.
      limits: (lowest, highest) normalised value, which others are cut to; () = they are not cut.
    """

    def __init__(self, mean, std, no_data, scale, limits):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.no_data, self.scale, self.limits = no_data, scale, tuple(limits)

    def forward(self, image):
        """[..., bands, height, width] float32 -> the same, normalised; pixels without data become 0, the mean."""
        finite = torch.isfinite(image)
        valid = finite.all(dim=-3, keepdim=True)
        if self.no_data is not None:
            valid &= (torch.abs(image - self.no_data) > self.scale / 2).any(dim=-3, keepdim=True)
        values = (image - self.mean) / self.std
        return torch.where(valid, values.clamp(*self.limits) if self.limits else values, 0.0)


class _Exported(WeightsEnum):
    """Weights that are read from their folder; torchgeo's own are downloaded."""

    def get_state_dict(self, *args, **kwargs):
        return load_file(self.meta["file"])


def weights(folder):
    """Returns the weights of an exported folder, for the function of torchgeo.models that `meta['model']` names."""
    folder = pathlib.Path(folder).resolve()
    description = json.loads((folder / "config.json").read_text())
    sensor = description["dual_encoder"]["sensor"]
    scale, no_data = sensor["scale"], sensor["no_data"]
    mean, std = ([value * scale for value in sensor[key]] for key in ("mean", "std"))
    file = folder / "model.safetensors"
    return _Exported("Exported", {"ENCODER": Weights(
        url=file.as_uri(), transforms=Normalise(mean, std, None if no_data is None else no_data * scale, scale,
                                                sensor.get("limits", ())),
        meta={"dataset": description["dual_encoder"]["dataset"]["name"], "model": description["architecture"],
              "in_chans": len(sensor["bands"]), "bands": sensor["bands"], "unit": sensor["unit"],
              "ssl_method": "dual_encoder", "file": str(file)})}).ENCODER
