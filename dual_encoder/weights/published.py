"""Finds the encoder of one sensor in the content of a published file, and the kind of network that it is."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.models.croma import PATCH
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.vit import HEAD
from dual_encoder.weights.files import Weights
from dual_encoder.weights.layouts import LAYOUTS, Layout, refuse_other_networks
from dual_encoder.weights.timm_keys import DEPTHS, from_timm, resnet_blocks

_SIZE = 64  # pixels of the image that shapes are derived with
# Part of a key -> what makes it another transformer than ours.
_OTHER_TRANSFORMERS = {"reg_token": "register tokens", "register_tokens": "register tokens",
                       ".q_norm.": "norms of q and k", "norm_pre.": "a norm before the blocks",
                       "patch_embed.proj.0.": "a stem of convolutions (vit_conv)"}


class Found(NamedTuple):
    """The encoder of one sensor in a file.

    Attributes:
      weights: timm's key -> array; convolutions OIHW. If the first layer is made from wavelengths, its keys are those
        of the network that makes it.
      left_out: what else is in the file, with the number of its arrays: 'momentum encoder' -> 320.
      filled: keys that are not in the file -> the value in all their elements.
    """

    weights: dict[str, np.ndarray]
    left_out: dict[str, int]
    filled: Mapping[str, float]


def find(file: Weights, name: str, layout: Layout, feature: str) -> Found:
    """Takes the encoder of a feature out of a file of weights.

    Args:
      file: its content.
      name: of the layout.
      layout: its facts.
      feature: 's1' or 's2'; some files hold an encoder for each.

    Raises:
      UserError: the keys are those of another layout, or of a network that cannot be represented; the file has another
        number of blocks than the published ones, or was withdrawn.
    """
    for digits, why in layout.withdrawn.items():
        if file.sha256.startswith(digits):
            raise UserError(f"'{file.path}' cannot be imported: {why}")
    refuse_other_networks(file.path, _joined(file.tree))
    group, state = _state(file.tree, layout)
    if not state:
        raise _unknown(file, name, list(file.tree))
    left: dict[str, int] = {}
    for other in file.tree:
        if group and other != group:
            left[f"'{other}'"] = len(_flat(file.tree[other])) if isinstance(file.tree[other], Mapping) else 1
    for part, network in layout.refused.items():
        if any(part in key for key in state):
            raise UserError(f"'{file.path}' holds {network}, which cannot be represented; give weights of a plain "
                            "ResNet or ViT")
    prefix = _prefix(state, layout, feature)
    if prefix is None:
        there = [other for other in layout.prefixes if _prefix(state, layout, other) is not None]
        if there:
            raise UserError(f"'{file.path}' holds no encoder of '{feature}', but one of '{there[0]}'; give a sensor of "
                            "that as --sensor, or another file")
        raise _unknown(file, name, list(state))
    weights: dict[str, np.ndarray] = {}
    for key, value in state.items():
        inner = key.removeprefix(prefix)
        head = next((what for start, what in layout.heads.items() if inner.startswith(start)), None)
        rest = next((what for start, what in layout.others.items() if key.startswith(start)), None)
        if key.startswith(prefix) and head is None and (rest is None or prefix):
            weights[inner] = value
        else:
            what = head if key.startswith(prefix) and head else rest
            if what is None:
                raise UserError(f"'{file.path}' holds the unexpected key '{key}', which layout '{name}' does not have; "
                                "check --layout")
            left[what] = left.get(what, 0) + 1
    return _completed(file, layout, feature, Found(weights, left, {}))


def _completed(file: Weights, layout: Layout, feature: str, found: Found) -> Found:
    """Returns the weights with a convolution as the first layer of a CROMA, and with keys that the file may lack."""
    weights, kernel = found.weights, found.weights.get("patch_embed.proj.weight")
    if layout.family == "croma" and kernel is not None and kernel.ndim == 2 and kernel.shape[1] % PATCH**2 == 0:
        # A row of the kernel is of the pixels of a patch, in the order of bands, rows, columns.
        weights = weights | {"patch_embed.proj.weight": kernel.reshape(len(kernel), -1, PATCH, PATCH)}
    blocks = _blocks(weights)
    width = len(weights[blocks[0]]) if blocks else 0
    expected = layout.depths.get(feature, layout.depths.get("", {})).get(width, len(blocks))
    if len(blocks) != expected:
        raise UserError(f"'{file.path}' holds {len(blocks)} blocks of width {width}, the published network has "
                        f"{expected}: it is truncated, or another network; copy or download it again")
    filled = {} if any(key in weights for key in layout.filled) else layout.filled
    weights = weights | {key: np.full(width, value, np.float32) for key, value in filled.items()}
    return found._replace(weights=weights, filled=filled)


def encoder(weights: Mapping[str, np.ndarray], layout: Layout) -> Any:
    """Returns the configuration of the encoder that some weights belong to, a dataclass of `AnyEncoder`.

    The number of heads is not in the weights. A ViT has heads of 64 channels here, as all ViT-Ti, S, B and L; a CROMA
    has 16.

    Args:
      weights: timm's key -> array, without classifier.
      layout: facts of the layout that are not in the weights.

    Raises:
      UserError: a network of another kind or depth.
    """
    if layout.family == "croma":
        values = {"family": "croma", "depth": len(_blocks(weights)), "width": len(weights["patch_embed.proj.weight"])}
    else:
        transformer = any(key.startswith("patch_embed.") for key in weights)
        values = _vit(weights, layout) if transformer else _resnet(weights)
    return parse(AnyEncoder, values | {"remat": False, "dtype": "float32"}, name="the encoder of the weights")


def variables(weights: Mapping[str, np.ndarray], config: AnyEncoder) -> dict[str, Any]:
    """Returns {'params', 'batch_stats'} of the encoder, float32; UserError for missing or unexpected keys."""
    first = next(weights[key] for key in ("conv1.weight", "patch_embed.proj.weight") if key in weights)
    image = jnp.zeros((1, _SIZE, _SIZE, first.shape[1]))
    template = jax.eval_shape(lambda: config.make().init(jax.random.key(0), image, False))
    return from_timm(weights, template)


def _resnet(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    bottleneck, blocks = resnet_blocks(weights)
    width = len(weights["conv1.weight"])
    inner = weights["layer1.0.conv1.weight"].shape[0] if "layer1.0.conv1.weight" in weights else 0
    if (bottleneck, blocks) not in DEPTHS or inner != width or weights["conv1.weight"].shape[2:] != (7, 7):
        raise UserError(f"the weights are of a ResNet with {', '.join(map(str, blocks))} "
                        f"{'bottlenecks' if bottleneck else 'blocks'} in its layers, {inner} channels inside and "
                        f"{width} at the stem; expected ResNet-18, 34, 50 or 101 as in torchvision")
    return {"family": "resnet", "depth": DEPTHS[bottleneck, blocks], "width": width,
            "norm": "batch" if "bn1.running_mean" in weights else "group"}


def _vit(weights: Mapping[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    for part, what in _OTHER_TRANSFORMERS.items():
        if any(part in key for key in weights):
            raise UserError(f"the weights are of a transformer with {what}, which cannot be represented; give weights "
                            "of a plain ViT")
    kernel, token = weights["patch_embed.proj.weight"], "cls_token" in weights
    norm_of_mean = "fc_norm.weight" in weights
    if norm_of_mean and not token:  # also timm's blocks with a norm behind the attention, which have the same keys
        raise UserError("the weights are of a transformer with a norm after the mean of its tokens and no class token, "
                        "which cannot be represented; give weights of a plain ViT")
    if kernel.ndim != 4 or "pos_embed" not in weights or kernel.shape[0] % HEAD:
        raise UserError(f"the weights are of a transformer with patches of shape {list(kernel.shape)} and "
                        f"{'learnt' if 'pos_embed' in weights else 'no'} positions; expected a ViT whose width is a "
                        f"multiple of {HEAD}")
    width, _, patch, _ = kernel.shape
    tokens = weights["pos_embed"].shape[1] - token
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"the weights hold {weights['pos_embed'].shape[1]} positions, expected a square of them"
                        f"{' and one of the class token' * token}; give weights of a ViT for square images")
    return {"family": "vit", "depth": len(_blocks(weights)), "width": width, "patch": patch, "image_size": side * patch,
            "pool": "patches" if norm_of_mean else "token" if token else "mean", "shift": layout.shift,
            "positions": "sincos" if layout.fixed_positions else "learned"}


def _blocks(weights: Mapping[str, np.ndarray]) -> list[str]:
    """Returns a key of each block of a transformer, that of its first norm."""
    return [key for key in weights if re.fullmatch(r"blocks\.\d+\.norm1\.weight", key)]


def _joined(tree: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Returns the arrays of nested mappings, their keys joined by '.'."""
    found: dict[str, np.ndarray] = {}
    for key, value in tree.items():
        found |= _joined(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _state(tree: Mapping[str, Any], layout: Layout) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the name of the group that a layout reads ('' = the file itself), and its arrays by timm's keys.

    There are none if the file has no such group.
    """
    if layout.names:
        return "", {_timm_key(key, layout): value for key, value in _joined(tree).items()}
    group = next((group for group in layout.groups if isinstance(tree.get(group), Mapping)), "")
    return group, _flat(tree[group] if group else tree)


def _timm_key(key: str, layout: Layout) -> str:
    for pattern, replacement in layout.names:
        key = re.sub(pattern, replacement, key)
    return key


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays that lie in a mapping itself."""
    return {key: value for key, value in tree.items() if isinstance(value, np.ndarray)}


def _prefix(state: Mapping[str, np.ndarray], layout: Layout, feature: str) -> str | None:
    """Returns the text before the keys of the encoder of a feature; None if there is no such encoder."""
    prefixes = layout.prefixes.get(feature, layout.prefixes.get("", ()))
    return next((prefix for prefix in prefixes
                 if any(re.fullmatch(f"{re.escape(prefix)}({layout.first})", key) for key in state)), None)


def _unknown(file: Weights, name: str, keys: list[str]) -> UserError:
    """Returns the error for a file of another layout; it names layouts that would fit."""
    fits = []
    for other, layout in LAYOUTS.items():
        _, state = _state(file.tree, layout)
        if any(_prefix(state, layout, feature) is not None for feature in layout.prefixes):
            fits.append(other)
    hint = f"try --layout={' or '.join(fits)}" if fits else "no known layout has such keys"
    return UserError(f"'{file.path}' is not of layout '{name}': it starts with the keys "
                     f"{', '.join(sorted(keys)[:3]) or 'of nothing'}; {hint}")
