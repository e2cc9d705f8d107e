"""The layouts of published weights: where the encoder lies in a file, and what else is there. Data, not code.

All of them have timm's keys (`timm_keys.py`) after a prefix, some after other names have been replaced. Sources: the
conversion and evaluation code of each project, named at its layout.
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
      names: (pattern, replacement) that make timm's keys of others, one after the other. Mappings in the file are
        joined before, 'a' and 'b' to 'a.b'.
      prefixes: feature, or '' for all -> texts before the keys of the encoder; the first that is there counts, '' =
        none, as in converted files.
      others: start of other keys of the file -> what they are. They are left out, and named.
      heads: the same, after the prefix.
      first: pattern of the key of the first layer, after the prefix.
      filled: keys that a file may lack, all of them -> the value in all their elements.
      bands: number of bands -> name of the sensor, '' = any, and names of the bands in the order of the file.
      wavelengths: the first layer is made for any bands from their wavelengths (`dofa.py`).
      normalisation: modality -> a name of `normalisation.py`, '' = it must be stated.
      family: of the encoder, '' = resnet or vit, as the keys say.
      fixed_positions: a transformer's positions do not learn.
      shift: of a transformer's patches, in pixels.
      depths: feature, or '' for all -> width -> number of blocks of the published transformers of this width.
      refused: part of a key -> the network that cannot be represented.
      withdrawn: first digits of the sha256 of a file -> what is wrong with it.
    """

    groups: tuple[str, ...] = ("",)
    names: tuple[tuple[str, str], ...] = ()
    prefixes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: {"": ("",)})
    others: Mapping[str, str] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, str] = dataclasses.field(default_factory=lambda: _HEADS)
    first: str = r"conv1\.weight|patch_embed\.proj(\.0)?\.weight|patch_embed1\..*"
    filled: Mapping[str, float] = dataclasses.field(default_factory=dict)
    bands: Mapping[int, tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    wavelengths: bool = False
    normalisation: Mapping[str, str] = dataclasses.field(default_factory=dict)
    family: str = ""
    fixed_positions: bool = False
    shift: int = 0
    depths: Mapping[str, Mapping[int, int]] = dataclasses.field(default_factory=dict)
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    withdrawn: Mapping[str, str] = dataclasses.field(default_factory=dict)


_SSL4EO_BANDS = {2: _S1, 13: _S2, 3: ("s2_l1c", _RGB[1])}
_CROMA_NAMES = (
    (r"^(s\d)_GAP_FFN\.0\.", r"\1_encoder.gap_norm."), (r"^(s\d)_GAP_FFN\.1\.", r"\1_encoder.gap_fc1."),
    (r"^(s\d)_GAP_FFN\.3\.", r"\1_encoder.gap_fc2."), (r"^(s\d_encoder\.)linear_input\.", r"\1patch_embed.proj."),
    (r"^(s\d_encoder\.)transformer\.norm_out\.", r"\1norm."),
    (r"^(s\d_encoder\.)transformer\.layers\.(\d+)\.", r"\1blocks.\2."),
    (r"(\d)\.0\.input_norm\.", r"\1.norm1."), (r"(\d)\.0\.to_qkv\.", r"\1.attn.qkv."),
    (r"(\d)\.0\.to_out\.", r"\1.attn.proj."), (r"(\d)\.1\.input_norm\.", r"\1.norm2."),
    (r"(\d)\.1\.net\.0\.", r"\1.mlp.fc1."), (r"(\d)\.1\.net\.3\.", r"\1.mlp.fc2."))
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
    # antofuller/CROMA, use_croma.py and README.md; torchgeo/models/croma.py
    "croma": Layout(
        names=_CROMA_NAMES,
        prefixes={"s1": ("s1_encoder.",), "s2": ("s2_encoder.",)},
        others={"s1_encoder.": "encoder of S1", "s2_encoder.": "encoder of S2", "joint_encoder.": "joint encoder",
                "attn_bias": "attention bias, which is computed"},
        heads={}, bands={2: _S1, 12: ("s2_l2a", SENSORS["s2_l2a"].bands)},
        normalisation={"sar": "two_sigma", "optical": "two_sigma"}, family="croma",
        depths={"s1": {768: 6, 1024: 12}, "s2": {768: 12, 1024: 24}}),
    # zhu-xlab/DOFA, dofa_v1.py, wave_dynamic_layer.py and README.md; torchgeo/models/dofa.py
    "dofa": Layout(
        groups=("model", ""),
        others={"mask_token": "decoder", "decoder_": "decoder", "projector.": "projection head of the training",
                "norm.": "norm of the training"},
        first=r"patch_embed\.weight_generator\.weight_tokens", filled={"fc_norm.weight": 1.0, "fc_norm.bias": 0.0},
        wavelengths=True, normalisation={"sar": "sensor", "optical": "sensor"}, fixed_positions=True, shift=1,
        depths={"": {384: 12, 768: 12, 1024: 24}},
        withdrawn={"7cc0f413": "it was trained with a patch embedding that mixes bands (torchgeo, pull request 2256), "
                               "and replaced in September 2024 by dofa_base_patch16_224-a0275954.pth; give that"}),
}

# Published encoders whose network is another one than ours, with the differences.
REFUSED: Mapping[str, str] = {
    "dinov2": "a learnt scale follows each of its layers (LayerScale), and its patches have 14 pixels",
    "softcon": "a learnt scale follows each of its layers (LayerScale), as in DINOv2",
}
_LAYER_SCALE = ".ls1.gamma"  # a part of its keys: facebookresearch/dinov2, layers/layer_scale.py, and timm


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
        if _LAYER_SCALE in key:
            raise UserError(f"'{file}' holds weights of SoftCon, DINOv2 or DOFA v2 ('{key}'), which "
                            f"{_refusal('softcon')}")


def _refusal(name: str) -> str:
    return (f"cannot be imported: {REFUSED[name]}; import weights of a plain ResNet or ViT, or score this encoder in "
            "torchgeo-bench and show its table by `dual_encoder.experiment --beside`")
