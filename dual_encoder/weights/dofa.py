"""The first layer of DOFA for given bands: a small transformer makes its kernels from the wavelengths of the bands.

Xiong et al. 2024 (arXiv 2403.15356), section 3; zhu-xlab/DOFA, wave_dynamic_layer.py; torchgeo/models/dofa.py. It runs
once, at import; what remains is a plain ViT. Kernels of a band depend on the other bands, so another set of bands needs
another run.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import erf

from dual_encoder.errors import UserError
from dual_encoder.weights.timm_keys import check_shapes

# Band -> central wavelength in micrometres, as its authors feed them. Radar has the number of its frequency in GHz.
# xiong-zhitong/DOFA-pytorch, src/configs/dataset/geobench_eurosat.yaml; zhu-xlab/DOFA, README.md, for radar.
WAVELENGTHS: Mapping[str, float] = {
    "VV": 5.405, "VH": 5.405, "HH": 5.405, "HV": 5.405,
    "B01": 0.44, "B02": 0.49, "B03": 0.56, "B04": 0.665, "B05": 0.705, "B06": 0.74, "B07": 0.783, "B08": 0.842,
    "B8A": 0.86, "B09": 0.94, "B10": 1.37, "B11": 1.61, "B12": 2.19}

_WIDTH, _HEADS, _HIDDEN, _TOKENS = 128, 4, 2048, 128  # of the small transformer
_SIDE = 16  # of a patch in pixels
_SCALE = 0.01  # of its answers
_OF = "patch_embed."
_MAKER, _LAYER = "weight_generator.", "weight_generator.transformer_encoder.layers.0."


def for_bands(weights: Mapping[str, np.ndarray], bands: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the weights with `patch_embed.proj.weight` [width, bands, 16, 16] and `.bias` [width], float32.

    Args:
      weights: key -> array, with the network that makes the first layer under 'patch_embed.'; it is left out.
      bands: to take, in order; names of `WAVELENGTHS`.

    Raises:
      UserError: a band without a known wavelength, or keys of the network are missing, unexpected or of another shape.
    """
    unknown = [band for band in bands if band not in WAVELENGTHS]
    if unknown:
        raise UserError(f"the wavelength of {' '.join(unknown)} is not known, DOFA needs it; choose bands out of "
                        f"{' '.join(WAVELENGTHS)} with --bands=...")
    network = {key: value for key, value in weights.items() if key.startswith(_OF)}
    width = len(network.get(f"{_OF}{_MAKER}fc_bias.bias", ()))
    check_shapes(network, _shapes(width))
    values = {key.removeprefix(_OF): value.astype(np.float64) for key, value in network.items()}
    waves = _encoded([WAVELENGTHS[band] for band in bands])
    hidden = np.maximum(_linear(values, "fclayer.w1", waves), 0)
    waves = waves + np.maximum(_linear(values, "fclayer.w2", hidden), 0)
    tokens = _block(values, np.concatenate([values[f"{_MAKER}weight_tokens"], waves, values[f"{_MAKER}bias_token"]]))
    kernels = _linear(values, f"{_MAKER}fc_weight", tokens[_TOKENS:-1] + waves)
    kernels = kernels.reshape(len(bands), _SIDE, _SIDE, width).transpose(3, 0, 1, 2)
    made = {"weight": kernels, "bias": _linear(values, f"{_MAKER}fc_bias", tokens[-1])}
    return {key: value for key, value in weights.items() if key not in network} | {
        f"{_OF}proj.{kind}": (_SCALE * value).astype(np.float32) for kind, value in made.items()}


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Returns key -> shape of the network that makes the first layer of a ViT of this width."""
    linear = {"fclayer.w1": (_WIDTH, _WIDTH), "fclayer.w2": (_WIDTH, _WIDTH),
              f"{_MAKER}fc_weight": (_SIDE**2 * width, _WIDTH), f"{_MAKER}fc_bias": (width, _WIDTH),
              f"{_LAYER}self_attn.out_proj": (_WIDTH, _WIDTH), f"{_LAYER}linear1": (_HIDDEN, _WIDTH),
              f"{_LAYER}linear2": (_WIDTH, _HIDDEN), f"{_LAYER}norm1": (_WIDTH,), f"{_LAYER}norm2": (_WIDTH,)}
    shapes = {f"{_MAKER}weight_tokens": (_TOKENS, _WIDTH), f"{_MAKER}bias_token": (1, _WIDTH),
              f"{_LAYER}self_attn.in_proj_weight": (3 * _WIDTH, _WIDTH),
              f"{_LAYER}self_attn.in_proj_bias": (3 * _WIDTH,)}
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in linear.items()}
    return {f"{_OF}{key}": shape for key, shape in shapes.items()}


def _encoded(wavelengths: Sequence[float]) -> np.ndarray:
    """Returns sines and cosines of the wavelengths in nanometres, [bands, 128] float64 (Vaswani et al. 2017, 3.5).

    Powers, frequencies and angles are rounded to float32, as in the published code: of an angle of 5405 that moves a
    sine by up to 2e-4.
    """
    powers = 10000 ** (np.arange(_WIDTH // 2) / (_WIDTH // 2))
    frequencies = np.float32(1) / powers.astype(np.float32)
    nanometres = np.array(wavelengths, np.float32) * np.float32(1000)
    angles = (nanometres[:, None] * frequencies[None, :]).astype(np.float64)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _linear(values: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ values[f"{name}.weight"].T + values[f"{name}.bias"]


def _norm(values: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
    return x * values[f"{name}.weight"] + values[f"{name}.bias"]


def _block(values: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Returns the tokens [tokens, 128] after a block whose norms come last (Vaswani et al. 2017, section 3.1)."""
    qkv = x @ values[f"{_LAYER}self_attn.in_proj_weight"].T + values[f"{_LAYER}self_attn.in_proj_bias"]
    q, k, v = qkv.reshape(len(x), 3, _HEADS, -1).transpose(1, 2, 0, 3)  # [heads, tokens, channels]
    logits = q @ k.transpose(0, 2, 1) / math.sqrt(_WIDTH // _HEADS)
    similarity = np.exp(logits - logits.max(axis=-1, keepdims=True))
    mixed = (similarity / similarity.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), _WIDTH)
    x = _norm(values, f"{_LAYER}norm1", x + _linear(values, f"{_LAYER}self_attn.out_proj", mixed))
    hidden = _linear(values, f"{_LAYER}linear1", x)
    hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
    return _norm(values, f"{_LAYER}norm2", x + _linear(values, f"{_LAYER}linear2", hidden))
