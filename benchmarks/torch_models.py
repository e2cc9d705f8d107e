"""The encoders of dual_encoder/models in PyTorch, as peers for the benchmarks: the same layers and nothing else."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LAYOUTS = {18: (False, (2, 2, 2, 2)), 34: (False, (3, 4, 6, 3)), 50: (True, (3, 4, 6, 3)), 101: (True, (3, 4, 23, 3))}


class Block(nn.Module):
    """The residual block of dual_encoder/models/resnet.py."""

    def __init__(self, inside: int, width: int, bottleneck: bool, stride: int):
        super().__init__()
        outside = width * (4 if bottleneck else 1)
        shapes = ([(inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)] if bottleneck
                  else [(inside, width, 3, stride), (width, width, 3, 1)])
        self.convs = nn.ModuleList(nn.Conv2d(i, o, k, s, k // 2, bias=False) for i, o, k, s in shapes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(o) for _, o, _, _ in shapes)
        self.down = (nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))
                     if inside != outside or stride != 1 else nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), start=1):
            y = norm(conv(y))
            y = F.relu(y) if number < len(self.convs) else y
        return F.relu(self.down(x) + y)


class ResNet(nn.Module):
    """The ResNet of dual_encoder/models/resnet.py: images [batch, bands, height, width] -> vectors."""

    def __init__(self, bands: int, depth: int, width: int):
        super().__init__()
        bottleneck, layers = LAYOUTS[depth]
        self.stem = nn.Sequential(nn.Conv2d(bands, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
                                  nn.MaxPool2d(3, 2, 1))
        blocks, inside = [], width
        for layer, count in enumerate(layers):
            for number in range(count):
                blocks.append(Block(inside, width * 2**layer, bottleneck, 2 if layer and not number else 1))
                inside = width * 2**layer * (4 if bottleneck else 1)
        self.blocks, self.features = nn.Sequential(*blocks), inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x)).mean((2, 3))


class UNet(nn.Module):
    """A ResNet below the U-Net of dual_encoder/models/decoders.py: images [batch, bands, height, width] -> logits.

    Args:
      parameters: 'params/s1_encoder/conv1/kernel', ... -> array, as of `python -m dual_encoder.export --format=npz`.
      bands, depth, width, decoder_width, classes: of the model.
    """

    def __init__(self, parameters: Mapping[str, np.ndarray], bands: int, depth: int, width: int, decoder_width: int,
                 classes: int):
        super().__init__()
        self.encoder, self.ends = ResNet(bands, depth, width), [0]
        for count in LAYOUTS[depth][1]:
            self.ends.append(self.ends[-1] + count)
        maps = [width, *(width * 2**layer * (4 if LAYOUTS[depth][0] else 1) for layer in range(4))]
        self.levels, inside = nn.ModuleList(), maps[-1]
        for level, skip in reversed(list(enumerate([0, *maps[:-1]]))):
            outside = decoder_width * 2**level
            self.levels.append(nn.Sequential(*(layer for number in range(2) for layer in (
                nn.Conv2d(outside if number else inside + skip, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside),
                nn.ReLU()))))
            inside = outside
        self.classifier = nn.Conv2d(inside, classes, 1)
        self._take(parameters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.encoder.stem[:3](x)
        skips, y = [y], self.encoder.stem[3](y)
        for first, last in zip(self.ends, self.ends[1:], strict=False):
            y = self.encoder.blocks[first:last](y)
            skips.append(y)
        y = skips.pop()
        for level in self.levels:
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = level(torch.cat([y, skips.pop()], 1) if skips else y)
        return self.classifier(y)

    def _take(self, parameters: Mapping[str, np.ndarray]) -> None:
        def convolution(layer: nn.Module, name: str) -> None:
            layer.weight.data = torch.tensor(parameters[f"params/{name}/kernel"].transpose(3, 2, 0, 1).copy())

        def norm(layer: nn.Module, name: str) -> None:
            for own, kind, theirs in (("weight", "params", "scale"), ("bias", "params", "bias"),
                                      ("running_mean", "batch_stats", "mean"), ("running_var", "batch_stats", "var")):
                getattr(layer, own).data = torch.tensor(parameters[f"{kind}/{name}/{theirs}"])

        convolution(self.encoder.stem[0], "s1_encoder/conv1")
        norm(self.encoder.stem[1], "s1_encoder/bn1")
        for layer, (first, last) in enumerate(zip(self.ends, self.ends[1:], strict=False), start=1):
            for number, block in enumerate(self.encoder.blocks[first:last]):
                name = f"s1_encoder/layer{layer}_{number}"
                for at, (conv, bn) in enumerate(zip(block.convs, block.norms, strict=True), start=1):
                    convolution(conv, f"{name}/conv{at}")
                    norm(bn, f"{name}/bn{at}")
                if len(list(block.down.children())):
                    convolution(block.down[0], f"{name}/downsample_conv")
                    norm(block.down[1], f"{name}/downsample_bn")
        for level, layers in zip((4, 3, 2, 1, 0), self.levels, strict=True):
            for at in (0, 1):
                convolution(layers[3 * at], f"decoder{level}/conv{at + 1}")
                norm(layers[3 * at + 1], f"decoder{level}/bn{at + 1}")
        convolution(self.classifier, "classifier")
        self.classifier.bias.data = torch.tensor(parameters["params/classifier/bias"])


class Transformer(nn.Module):
    """The vision transformer of dual_encoder/models/vit.py: images [batch, bands, height, width] -> vectors."""

    def __init__(self, bands: int, depth: int, width: int, patch: int, size: int):
        super().__init__()
        self.embed = nn.Conv2d(bands, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 1 + (size // patch) ** 2, width))
        self.layers = nn.ModuleList(nn.ModuleDict({
            "norm1": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width),
            "norm2": nn.LayerNorm(width), "fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width),
        }) for _ in range(depth))
        self.norm, self.features, self.heads = nn.LayerNorm(width), width, width // 64

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for layer in self.layers:
            q, k, v = layer["qkv"](layer["norm1"](x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = x + layer["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            x = x + layer["fc2"](F.gelu(layer["fc1"](layer["norm2"](x))))
        return self.norm(x[:, 0])


def with_head(encoder: nn.Module, hidden: int, dim: int) -> nn.Module:
    """Returns the encoder, followed by Linear - ReLU - Linear."""
    return nn.Sequential(encoder, nn.Linear(encoder.features, hidden), nn.ReLU(), nn.Linear(hidden, dim))
