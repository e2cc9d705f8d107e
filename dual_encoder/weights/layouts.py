"""The layouts of published weights: where the encoder lies in a file, and what else is there. Data, not code.

All of them have timm's keys (`timm_keys.py`) after a prefix. Sources: the conversion and evaluation code of each
project, named at its layout.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from dual_encoder.errors import UserError, nearest
from dual_encoder.imagery.sensors import SENSORS

_S1 = ("s1_grd", SENSORS["s1_grd"].bands)
_S2 = ("s2_l1c", SENSORS["s2_l1c"].bands)  # the order is that of the files: B1 ... B8 B8A B9 B10 B11 B12
_RGB = ("", ("B04", "B03", "B02"))
_HEADS = {"fc.": "classifier or projection head", "head.": "classifier or projection head"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
      groups: names of the mapping in which the weights lie, '' = the file itself; the first that is there counts.
      prefixes: feature, or '' for all -> texts before the keys of the encoder; the first that is there counts, '' =
        none, as in converted files.
      others: start of other keys of the file -> what they are. They are left out, and named.
      heads: the same, after the prefix.
      bands: number of bands -> name of the sensor, '' = any, and names of the bands in the order of the file.
      normalisation: modality -> a name of `normalisation.py`, '' = it must be stated.
      fixed_positions: a transformer's positions do not learn.
      refused: part of a key -> the network that cannot be represented.
    """

    groups: tuple[str, ...] = ("",)
    prefixes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"": ("",)})
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, str] = dataclasses.field(default_factory=lambda: _HEADS)
    bands: Mapping[int, tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    normalisation: Mapping[str, str] = dataclasses.field(default_factory=dict)
    fixed_positions: bool = False
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)


_SSL4EO_BANDS = {2: _S1, 13: _S2, 3: ("s2_l1c", _RGB[1])}
_SSL4EO_VALUES = {"sar": "two_sigma", "optical": "reflectance_clipped"}

LAYOUTS: Mapping[str, Layout] = {
    "timm": Layout(groups=("", "state_dict", "model"), bands={3: _RGB}),
    "torchvision": Layout(groups=("", "state_dict", "model"), bands={3: _RGB}, normalisation={"optical": "imagenet"}),
    # torchgeo/models/resnet.py and vit.py
    "torchgeo": Layout(bands=_SSL4EO_BANDS, normalisation={"sar": "torchgeo", "optical": "reflectance"}),
    # zhu-xlab/SSL4EO-S12, pretrain_ssl/models/moco_v2/builder.py and moco_v3; linear_BE_moco.py, linear_BE_moco_v3.py
    "ssl4eo_moco": Layout(
        groups=("state_dict", ""), prefixes={"": ("module.encoder_q.", "module.base_encoder.", "")},
        others={"module.encoder_k.": "momentum encoder", "module.momentum_encoder.": "momentum encoder",
                "module.predictor.": "prediction head", "module.queue": "queue of negatives"},
        bands=_SSL4EO_BANDS, normalisation=_SSL4EO_VALUES, fixed_positions=True),
    # zhu-xlab/SSL4EO-S12, pretrain_dino_s2c.py; models/dino/utils.py: load_pretrained_weights
    "ssl4eo_dino": Layout(
        groups=("teacher", ""), prefixes={"": ("module.backbone.", "backbone.", "")},
        others={"module.head.": "projection head", "head.": "projection head"},
        bands=_SSL4EO_BANDS, normalisation=_SSL4EO_VALUES),
    # zhu-xlab/SSL4EO-S12, pretrain_ssl/models/mae/models_mae.py; linear_BE_mae.py without global_pool
    "ssl4eo_mae": Layout(
        groups=("model", ""), others={"decoder_": "decoder", "mask_token": "decoder"},
        bands=_SSL4EO_BANDS, normalisation=_SSL4EO_VALUES, fixed_positions=True),
    # zhu-xlab/DeCUR, pretrain/models/decur.py; utils/convert_backbone.py
    "decur": Layout(
        groups=("model", ""), prefixes={"s1": ("module.backbone_1.", ""), "s2": ("module.backbone_2.", "")},
        others={"module.backbone_1.": "encoder of S1", "module.backbone_2.": "encoder of S2",
                "module.projector": "projection heads", "module.bn.": "normalisation of the loss"},
        bands=_SSL4EO_BANDS, normalisation=_SSL4EO_VALUES,
        refused={"da1_l": "deformable attention between the layers of a ResNet (RDA)",
                 "da2_l": "deformable attention between the layers of a ResNet (RDA)",
                 "patch_embed1.": "a SegFormer (mit_b2, mit_b5)"}),
}

# Published encoders whose network is another one than ours, with the differences.
REFUSED: Mapping[str, str] = {
    "croma": "its attention has heads of 48 channels and a bias by distance (ALiBi) in place of positions, no bias of "
             "q, k and v, and its vectors pass an MLP of their own",
    "dofa": "its patches are shifted by one pixel and embedded with kernels that a network makes from wavelengths, and "
            "its vector is a mean of tokens with a norm of its own, beside a class token",
    "dinov2": "a learnt scale follows each of its layers (LayerScale), and its patches have 14 pixels",
    "softcon": "a learnt scale follows each of its layers (LayerScale), as in DINOv2",
}
# Part of a key -> the network that has it: antofuller/CROMA, use_croma.py, and torchgeo; zhu-xlab/DOFA,
# models_dwv.py, and torchgeo; facebookresearch/dinov2, layers/layer_scale.py, and timm.
_SIGNS: Mapping[str, str] = {"s1_GAP_FFN": "croma", "s2_GAP_FFN": "croma", "GAP_FFN_s1": "croma",
                             "GAP_FFN_s2": "croma", "patch_embed.weight_generator.": "dofa", ".ls1.gamma": "softcon"}


def layout(name: str) -> Layout:
    """Returns the layout called `name`; UserError for another name, or for a network that is not ours."""
    if name in REFUSED:
        raise UserError(f"weights of layout '{name}' {_refusal(name)}")
    if name not in LAYOUTS:
        raise UserError(f"unknown layout '{name}'; {nearest(name, (*LAYOUTS, *REFUSED))}")
    return LAYOUTS[name]


def refuse_other_networks(file: object, keys: Iterable[str]) -> None:
    """Raises UserError if some keys of a file, nested ones joined by '.', are those of a network in `REFUSED`."""
    for key in keys:
        for sign, name in _SIGNS.items():
            if sign in key:
                title = {"softcon": "SoftCon or DINOv2"}.get(name, name.upper())
                raise UserError(f"'{file}' holds weights of {title} ('{key}'), which {_refusal(name)}")


def _refusal(name: str) -> str:
    return (f"cannot be imported: {REFUSED[name]}; import weights of a plain ResNet or ViT, or score this encoder in "
            "torchgeo-bench and show its table by `dual_encoder.experiment --beside`")
