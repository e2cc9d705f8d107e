"""Finds the encoder of one sensor in the content of a published file, and the kind of network that it is."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.models.encoder import AnyEncoder
from dual_encoder.models.vit import HEAD
from dual_encoder.weights.files import Weights
from dual_encoder.weights.layouts import LAYOUTS, Layout, refuse_other_networks
from dual_encoder.weights.timm_keys import DEPTHS, from_timm, resnet_blocks

_SIZE = 64  # pixels of the image that shapes are derived with
# Part of a key -> what makes it another transformer than ours.
_OTHER_TRANSFORMERS = {"reg_token": "register tokens", "register_tokens": "register tokens",
                       ".q_norm.": "norms of q and k", "norm_pre.": "a norm before the blocks",
                       "fc_norm.": "a norm after the mean of its tokens (global_pool=avg)",
                       "patch_embed.proj.0.": "a stem of convolutions (vit_conv)"}


class Found(NamedTuple):
    """The encoder of one sensor in a file.

    Attributes:
      weights: timm's key -> array; convolutions OIHW.
      left_out: what else is in the file, with the number of its arrays: 'momentum encoder' -> 320.
    """

    weights: dict[str, np.ndarray]
    left_out: dict[str, int]


def find(file: Weights, name: str, layout: Layout, feature: str) -> Found:
    """Takes the encoder of a feature out of a file of weights.

    Args:
      file: its content.
      name: of the layout.
      layout: its facts.
      feature: 's1' or 's2'; some files hold an encoder for each.

    Raises:
      UserError: the keys are those of another layout, or of a network that cannot be represented.
    """
    refuse_other_networks(file.path, _keys(file.tree))
    left: dict[str, int] = {}
    group = next((group for group in layout.groups if group in file.tree and isinstance(file.tree[group], Mapping)), "")
    if group == "" and "" not in layout.groups or not _flat(file.tree[group] if group else file.tree):
        raise _unknown(file, name, list(file.tree))
    state = _flat(file.tree[group] if group else file.tree)
    for other in file.tree:
        if group and other != group:
            left[f"'{other}'"] = len(_flat(file.tree[other])) if isinstance(file.tree[other], Mapping) else 1
    for part, network in layout.refused.items():
        if any(part in key for key in state):
            raise UserError(f"'{file.path}' holds {network}, which cannot be represented; give weights of a plain "
                            "ResNet or ViT")
    prefixes = layout.prefixes.get(feature, layout.prefixes.get("", ()))
    prefix = next((prefix for prefix in prefixes if any(_begins(key, prefix) for key in state)), None)
    if prefix is None:
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
    return Found(weights, left)


def encoder(weights: Mapping[str, np.ndarray], fixed_positions: bool) -> Any:
    """Returns the configuration of the encoder that some weights belong to, a dataclass of `AnyEncoder`.

    The number of heads is not in the weights; heads of 64 channels, as in all ViT-Ti, S, B and L, are assumed.

    Args:
      weights: timm's key -> array, without classifier.
      fixed_positions: a transformer's positions do not learn.

    Raises:
      UserError: a network of another kind or depth.
    """
    values = _vit(weights, fixed_positions) if "patch_embed.proj.weight" in weights else _resnet(weights)
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


def _vit(weights: Mapping[str, np.ndarray], fixed_positions: bool) -> dict[str, Any]:
    for part, what in _OTHER_TRANSFORMERS.items():
        if any(part in key for key in weights):
            raise UserError(f"the weights are of a transformer with {what}, which cannot be represented; give weights "
                            "of a plain ViT")
    kernel, depth = weights["patch_embed.proj.weight"], sum(key.endswith(".norm1.weight") for key in weights)
    token = "cls_token" in weights
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
    return {"family": "vit", "depth": depth, "width": width, "patch": patch, "image_size": side * patch,
            "pool": "token" if token else "mean", "positions": "sincos" if fixed_positions else "learned"}


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the keys of nested mappings, joined by '.'."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _flat(tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays that lie in a mapping itself."""
    return {key: value for key, value in tree.items() if isinstance(value, np.ndarray)}


def _begins(key: str, prefix: str) -> bool:
    """Returns whether the key is that of an encoder's first layer, after the prefix."""
    return re.fullmatch(re.escape(prefix) + r"(conv1\.weight|patch_embed\.proj(\.0)?\.weight|patch_embed1\..*)",
                        key) is not None


def _unknown(file: Weights, name: str, keys: list[str]) -> UserError:
    """Returns the error for a file of another layout; it names layouts that would fit."""
    fits = []
    for other, layout in LAYOUTS.items():
        for group in layout.groups:
            state = file.tree.get(group) if group else file.tree
            prefixes = [prefix for some in layout.prefixes.values() for prefix in some]
            if isinstance(state, Mapping) and any(_begins(key, prefix) for key in _flat(state) for prefix in prefixes):
                fits.append(other)
    hint = f"try --layout={' or '.join(dict.fromkeys(fits))}" if fits else "no known layout has such keys"
    return UserError(f"'{file.path}' is not of layout '{name}': it starts with the keys "
                     f"{', '.join(sorted(keys)[:3]) or 'of nothing'}; {hint}")
