"""The encoders that config.encoder.family chooses from. A new one is a file of its own, and a dataclass here."""

import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp

from dual_encoder.config import AtLeast, Before, require
from dual_encoder.models.resnet import ResNet
from dual_encoder.models.vit import HEAD, ViT


@dataclasses.dataclass(frozen=True)
class _Common:
    """What all encoders have in common.

    Attributes:
      depth: of a ResNet 18, 34, 50 or 101; of a ViT its number of blocks (Ti, S and B: 12, L: 24).
      width: channels of a ResNet's stem, 64 in the standard ones; of a ViT's tokens, a multiple of 64 (Ti: 192, S: 384,
        B: 768, L: 1024).
      remat: recompute the inside of each block in the backward pass: less memory, more time.
      dtype: compute dtype, 'float32' or 'bfloat16'; parameters, norms and loss are float32.
    """

    depth: Annotated[int, AtLeast(1)]
    width: Annotated[int, AtLeast(1)]
    remat: Annotated[bool, Before(False)]
    dtype: Literal["float32", "bfloat16"]

    @property
    def first_layer(self) -> str:
        """The parameter group whose kernel [height, width, bands, channels] sees the bands.

        It is 'conv1' unless a family names another one.
        """
        return "conv1"

    @property
    def stages(self) -> int:
        """Number of parts that may learn at rates of their own: 1, unless a family tells its parts apart."""
        return 1

    def stage(self, layer: str) -> int:
        """Returns the stage of a layer, such as 'conv1': 0 is next to the image."""
        return 0


@dataclasses.dataclass(frozen=True)
class ResNetConfig(_Common):
    """A ResNet.

    Attributes:
      norm: 'batch', or 'group', which treats every image for itself.
    """

    family: Literal["resnet"] = "resnet"
    norm: Literal["batch", "group"] = "batch"

    def check(self, path: str) -> None:
        """Raises UserError for a depth that does not exist."""
        require(self.depth in (18, 34, 50, 101), f"{path}.depth", self.depth, "18, 34, 50 or 101")

    def check_crop(self, crop: int) -> None:
        """Accepts every size of images."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per row of each feature map, from shallow to deep."""
        return (2, 4, 8, 16, 32)

    @property
    def uses_batch_statistics(self) -> bool:
        """True when the vector of an image depends on the other images of its batch, in training."""
        return self.norm == "batch"

    @property
    def stages(self) -> int:
        """The stem and four layers."""
        return 5

    def stage(self, layer: str) -> int:
        """Returns 0 for the stem, 1 for 'layer1_0', ..., 4 for 'layer4_0'."""
        return int(layer[len("layer")]) if layer.startswith("layer") else 0

    def make(self, name: str | None = None, fixed: int = 0) -> ResNet:
        """Returns the module, with `fixed` first stages that do not learn."""
        return ResNet(self.depth, self.width, self.norm, self.remat, jnp.dtype(self.dtype), fixed=fixed, name=name)


@dataclasses.dataclass(frozen=True)
class ViTConfig(_Common):
    """A vision transformer.

    Attributes:
      patch: side of a patch in pixels, 4, 8, 16 or 32.
      image_size: side of the images that positions are kept for; positions for other sizes are interpolated.
      pool: 'token', or 'mean' of the tokens without a class token.
      positions: 'learned', or 'sincos', which are fixed.
    """

    family: Literal["vit"] = "vit"
    patch: int = 16
    image_size: int = 224
    pool: Literal["token", "mean"] = "token"
    positions: Literal["learned", "sincos"] = "learned"

    @property
    def first_layer(self) -> str:
        """The parameter group with the kernel [height, width, bands, channels] that sees the bands."""
        return "patch_embed"

    def check(self, path: str) -> None:
        """Raises UserError for widths or sizes that cannot be divided."""
        require(self.width % HEAD == 0, f"{path}.width", self.width, f"a multiple of {HEAD}, the width of a head")
        require(self.patch in (4, 8, 16, 32), f"{path}.patch", self.patch, "4, 8, 16 or 32")
        require(self.image_size >= self.patch and self.image_size % self.patch == 0, f"{path}.image_size",
                self.image_size, f"a multiple of {path}.patch, {self.patch}")

    def check_crop(self, crop: int) -> None:
        """Raises UserError for images that are not made of whole patches."""
        require(crop % self.patch == 0, "config.augment.crop", crop,
                f"a multiple of config.encoder.patch, {self.patch}, or 0 for whole images")

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per row of each feature map, from shallow to deep: the side of a patch for all of them."""
        return (self.patch,) * self.depth

    @property
    def uses_batch_statistics(self) -> bool:
        """False: there is no BatchNorm."""
        return False

    @property
    def stages(self) -> int:
        """The patches with their positions, and the blocks."""
        return 1 + self.depth

    def stage(self, layer: str) -> int:
        """Returns 0 for patches, positions and class token, 1 for 'blocks_0', ...; the norm is of the last block."""
        if layer.startswith("blocks_"):
            return 1 + int(layer.removeprefix("blocks_"))
        return self.depth if layer == "norm" else 0

    def make(self, name: str | None = None, fixed: int = 0) -> ViT:
        """Returns the module, with `fixed` first stages that do not learn."""
        return ViT(self.depth, self.width, self.patch, self.image_size, self.pool, self.positions, self.remat,
                   jnp.dtype(self.dtype), fixed=fixed, name=name)


AnyEncoder = ResNetConfig | ViTConfig
