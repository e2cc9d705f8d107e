"""An exported encoder as an encoder of PANGAEA-bench. An export holds a copy, beside preparation.py and weights.py."""

import pathlib
import re
import runpy

import timm
from pangaea.encoders.base import Encoder as Base

_FOLDER = pathlib.Path(__file__).parent


class Encoder(Base):
    """Feature maps of the encoder of this folder.

    Args:
      input_bands: {'optical' or 'sar': bands of the encoder, by PANGAEA's names ('B2')}.
      input_size: side of the crops in pixels.
      embed_dim, output_dim, pyramid_output: channels, channels of each map, whether the maps are of several strides.
      output_layers: numbers of the maps, as `out_indices` of timm.
      unit: of the data set, as of `Preparation`.
      missing: bands of `input_bands` that the data set lacks; they get their mean.

    Raises:
      ValueError: other bands than those of the encoder, or another unit.
    """

    def __init__(self, input_bands, input_size, embed_dim, output_layers, output_dim, pyramid_output, unit, missing=()):
        super().__init__(
            model_name="dual_encoder", input_bands=input_bands, input_size=input_size, embed_dim=embed_dim,
            output_layers=list(output_layers), output_dim=output_dim, multi_temporal=False, multi_temporal_output=False,
            pyramid_output=pyramid_output, encoder_weights=str(_FOLDER / "model.safetensors"), download_url=None)
        (self.modality, bands), = input_bands.items()
        names, lacking = ([re.sub(r"^B(\d)$", r"B0\1", band) for band in some] for some in (bands, missing))
        preparation = runpy.run_path(str(_FOLDER / "preparation.py"))["Preparation"]
        self.prepare = preparation(_FOLDER, [name for name in names if name not in lacking], unit, lacking)
        self.backbone = timm.create_model(f"local-dir:{_FOLDER}", pretrained=True, features_only=True,
                                          out_indices=tuple(output_layers))

    def load_encoder_weights(self, logger):
        """Says where the weights are from; timm has loaded them already, every key."""
        logger.info(f"weights of {self.encoder_weights}")

    def train(self, mode=True):
        """As of `torch.nn.Module`, but a frozen backbone keeps the statistics of its BatchNorm."""
        super().train(mode)
        if not any(value.requires_grad for value in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def forward(self, image):
        """{modality: [batch, bands, height, width], or with one date after the bands} -> list of maps."""
        image = image[self.modality]
        return list(self.backbone(self.prepare(image[:, :, 0] if image.ndim == 5 else image)))
