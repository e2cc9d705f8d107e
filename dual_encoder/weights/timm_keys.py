"""Encoder weights between our parameter tree and the keys of timm; nothing is lost either way.

    params       layer1_0/conv1/kernel   [h, w, in, out]  <->  layer1.0.conv1.weight    [out, in, h, w]
                 layer2_0/downsample_{conv,bn}            <->  layer2.0.downsample.{0,1}
                 patch_embed/kernel      [h, w, in, out]  <->  patch_embed.proj.weight  [out, in, h, w]
                 blocks_0/attn_qkv/kernel      [in, out]  <->  blocks.0.attn.qkv.weight       [out, in]
                 .../scale, .../bias                      <->  .../weight, .../bias
                 pos_embed, cls_token, fc_norm            <->  pos_embed, cls_token, fc_norm
    batch_stats  .../mean, .../var                        <->  .../running_mean, .../running_var

The keys of the ResNets are also torchvision's.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.models.vit import HEAD

_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
_MODULES = ((r"^(layer\d|blocks)_(\d+)", r"\1.\2"), (r"downsample_conv$", "downsample.0"),
            (r"downsample_bn$", "downsample.1"), (r"\b(attn|mlp)_", r"\1."), (r"^patch_embed$", "patch_embed.proj"))
# (bottlenecks, blocks of each layer) -> depth of a ResNet.
DEPTHS: Mapping[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18, (False, (3, 4, 6, 3)): 34, (True, (3, 4, 6, 3)): 50, (True, (3, 4, 23, 3)): 101}


def to_timm(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns timm's state dict of an encoder.

    Args:
      variables: {'params': tree, 'batch_stats': tree} of one `ResNet` or `ViT` (without a shift), numpy arrays.

    Returns:
      timm key -> float32 array; convolutions OIHW. The classifier and `num_batches_tracked` are not there.
    """
    return {_key(path): _transposed(path, np.asarray(leaf, np.float32)) for path, leaf in _leaves(variables)}


def from_timm(state: Mapping[str, np.ndarray], template: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of an encoder from timm's state dict.

    Args:
      state: timm or torchvision key -> array; `num_batches_tracked` is ignored.
      template: {'params': tree, 'batch_stats': tree} with the wanted names and shapes; arrays, or shapes as
        `jax.eval_shape` gives them.

    Returns:
      the tree of `template` with float32 numpy arrays of `state`.

    Raises:
      UserError: missing or unexpected keys, or another shape; nothing is filled in or left out.
    """
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    shapes = {_key(path): _timm_shape(path, leaf.shape) for path, leaf in _leaves(template)}
    check_shapes(state, shapes)
    variables: dict[str, Any] = {}
    for path, _ in _leaves(template):
        tree = variables
        for name in path[:-1]:
            tree = tree.setdefault(name, {})
        value = np.asarray(state[_key(path)], np.float32)
        tree[path[-1]] = value.transpose(_from_axes(value.ndim)) if path[-1] == "kernel" else value
    return variables


def check_shapes(state: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError unless the arrays of a state dict have exactly these keys and shapes; it lists what differs."""
    problems = [f"{what} {_some(keys)}" for what, keys in (
        ("missing", sorted(shapes.keys() - state.keys())),
        ("unexpected", sorted(state.keys() - shapes.keys())),
        ("other shape", [f"{k} {list(np.shape(state[k]))} for {list(shapes[k])}" for k in sorted(shapes)
                         if k in state and np.shape(state[k]) != shapes[k]])) if keys]
    if problems:
        raise UserError(f"the weights do not fit the encoder: {'; '.join(problems)}; give the weights of an encoder "
                        "of this kind, size and number of bands, without its classifier")


def resnet_blocks(weights: Mapping[str, np.ndarray]) -> tuple[bool, tuple[int, ...]]:
    """Returns whether the blocks of a ResNet are bottlenecks, and their number in each of its four layers."""
    return "layer1.0.conv3.weight" in weights, tuple(
        len({key.split(".")[1] for key in weights if key.startswith(f"layer{layer}.")}) for layer in range(1, 5))


def describe_network(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns timm's name and arguments of a network, derived from its weights.

    Args:
      weights: as `to_timm` returns them.

    Returns:
      'architecture' (timm's name), 'num_features', 'first_conv', 'classifier', and 'model_args': the
      arguments that differ from that architecture.
    """
    return _vit(weights) if "patch_embed.proj.weight" in weights else _resnet(weights)


def _resnet(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    width = len(weights["conv1.weight"])
    depth = DEPTHS[resnet_blocks(weights)]
    arguments: dict[str, Any] = {} if width == 64 else {"channels": [width * 2**layer for layer in range(4)]}
    if "bn1.running_mean" not in weights:
        arguments["norm_layer"] = "groupnorm"
    return {"architecture": f"resnet{depth}", "num_features": len(weights["layer4.0.downsample.1.weight"]),
            "first_conv": "conv1", "classifier": "fc", "model_args": arguments}


def _vit(weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the nearest of timm's names, and the arguments that differ from it; timm builds any size from them."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = sum(key.endswith(".norm1.weight") for key in weights)
    token = "cls_token" in weights
    side = math.isqrt(weights["pos_embed"].shape[1] - token)
    size = {(12, 192): "tiny", (12, 384): "small", (12, 768): "base", (24, 1024): "large"}.get((depth, width))
    arguments: dict[str, Any] = {"img_size": side * patch, "dynamic_img_size": True, "dynamic_img_pad": True}
    if patch != 16:
        arguments["patch_size"] = patch
    if size is None:
        arguments |= {"embed_dim": width, "depth": depth, "num_heads": width // HEAD}
    if not token:
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    elif "fc_norm.weight" in weights:
        arguments |= {"global_pool": "avg", "fc_norm": True}
    return {"architecture": f"vit_{size or 'base'}_patch16_224", "num_features": width,
            "first_conv": "patch_embed.proj", "classifier": "head", "model_args": arguments}


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), value


def _key(path: tuple[str, ...]) -> str:
    _, *modules, leaf = path  # the first name is the collection
    name = ".".join(modules)
    for pattern, replacement in _MODULES:
        name = re.sub(pattern, replacement, name)
    return f"{name}.{_LEAVES.get(leaf, leaf)}".removeprefix(".")


def _transposed(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(_to_axes(value.ndim))) if path[-1] == "kernel" else value


def _timm_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _to_axes(len(shape))) if path[-1] == "kernel" else tuple(shape)


def _to_axes(ndim: int) -> tuple[int, ...]:
    """[h, w, in, out] -> [out, in, h, w]; [in, out] -> [out, in]."""
    return (3, 2, 0, 1) if ndim == 4 else (1, 0)


def _from_axes(ndim: int) -> tuple[int, ...]:
    return (2, 3, 1, 0) if ndim == 4 else (1, 0)


def _some(keys: list[str]) -> str:
    return f"{len(keys)} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
