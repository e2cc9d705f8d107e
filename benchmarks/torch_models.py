"""The encoders of dual_encoder/models in PyTorch, as peers for the benchmarks: the same layers and nothing else."""

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
