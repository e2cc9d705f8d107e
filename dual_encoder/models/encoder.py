"""The encoders that config.encoder.family chooses from. A new one is a file of its own, and a dataclass here."""

import abc
import dataclasses
from typing import Annotated, Literal

import jax.numpy as jnp

from dual_encoder.config import AtLeast, Before, require
from dual_encoder.models.croma import HEADS, PATCH, Croma
from dual_encoder.models.resnet import ResNet
from dual_encoder.models.vit import HEAD, ViT


@dataclasses.dataclass(frozen=True)
class _Common:
    """What all encoders have in common.

    Attributes:
      depth: of a ResNet 18, 34, 50 or 101; of a ViT its number of blocks (Ti, S and B: 12, L: 24); of a CROMA, too (B:
        6 for radar, 12 for optical images; L: 12 and 24).
      width: channels of a ResNet's stem, 64 in the standard ones; of a ViT's tokens, a multiple of 64 (Ti: 192, S: 384,
        B: 768, L: 1024); of a CROMA's tokens, a multiple of 16 (B: 768, L: 1024).
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

    @property
    def not_in_timm(self) -> str:
        """A part of the network that timm cannot build, for messages; '' if it builds all of it."""
        return ""


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
class TransformerConfig(_Common, abc.ABC):
    """What vision transformers have in common."""

    @property
    def first_layer(self) -> str:
        """The parameter group with the kernel [height, width, bands, channels] that sees the bands."""
        return "patch_embed"

    @property
    @abc.abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Pixels per row of each feature map, from shallow to deep: the side of a patch for all of them."""

    def check_crop(self, crop: int) -> None:
        """Raises UserError for images that are not made of whole patches."""
        patch = self.strides[0]
        require(crop % patch == 0, "config.augment.crop", crop,
                f"a multiple of {patch}, the side of a patch of the encoder, or 0 for whole images")

    @property
    def uses_batch_statistics(self) -> bool:
        """False: there is no BatchNorm."""
        return False

    @property
    def stages(self) -> int:
        """The patches with their positions, and the blocks."""
        return 1 + self.depth

    def stage(self, layer: str) -> int:
        """Returns 0 for patches, positions and class token, 1 for 'blocks_0', ...

        The layers after the blocks belong to the last one.
        """
        if layer.startswith("blocks_"):
            return 1 + int(layer.removeprefix("blocks_"))
        return 0 if layer in ("patch_embed", "pos_embed", "cls_token") else self.depth


@dataclasses.dataclass(frozen=True)
class ViTConfig(TransformerConfig):
    """A vision transformer.

    Attributes:
      patch: side of a patch in pixels, 4, 8, 16 or 32.
      image_size: side of the images that positions are kept for; positions for other sizes are interpolated.
      pool: 'token'; 'mean' of the tokens without a class token; or 'patches': the mean of the tokens of the patches,
        next to a class token, and then the norm.
      positions: 'learned', or 'sincos', which are fixed.
      shift: pixels by which the patches are shifted up and to the left; 0, but 1 for DOFA.
    """

    family: Literal["vit"] = "vit"
    patch: int = 16
    image_size: int = 224
    pool: Literal["token", "mean", "patches"] = "token"
    positions: Literal["learned", "sincos"] = "learned"
    shift: Annotated[int, AtLeast(0), Before(0)] = 0

    def check(self, path: str) -> None:
        """Raises UserError for widths or sizes that cannot be divided, and for a shift beyond a patch."""
        require(self.width % HEAD == 0, f"{path}.width", self.width, f"a multiple of {HEAD}, the width of a head")
        require(self.patch in (4, 8, 16, 32), f"{path}.patch", self.patch, "4, 8, 16 or 32")
        require(self.image_size >= self.patch and self.image_size % self.patch == 0, f"{path}.image_size",
                self.image_size, f"a multiple of {path}.patch, {self.patch}")
        require(self.shift < self.patch, f"{path}.shift", self.shift, f"less than {path}.patch, {self.patch}")

    @property
    def strides(self) -> tuple[int, ...]:
        """The side of a patch, for each block."""
        return (self.patch,) * self.depth

    @property
    def not_in_timm(self) -> str:
        """The shift, if there is one."""
        return f"patches that are shifted by {self.shift} px" if self.shift else ""

    def make(self, name: str | None = None, fixed: int = 0) -> ViT:
        """Returns the module, with `fixed` first stages that do not learn."""
        return ViT(self.depth, self.width, self.patch, self.image_size, self.pool, self.positions, self.shift,
                   self.remat, jnp.dtype(self.dtype), fixed=fixed, name=name)


@dataclasses.dataclass(frozen=True)
class CromaConfig(TransformerConfig):
    """The encoder of one sensor of CROMA: patches of 8 px, 16 heads, distances in place of positions."""

    family: Literal["croma"] = "croma"

    def check(self, path: str) -> None:
        """Raises UserError for a width that cannot be divided."""
        require(self.width % HEADS == 0, f"{path}.width", self.width, f"a multiple of {HEADS}, the number of heads")

    @property
    def strides(self) -> tuple[int, ...]:
        """8 pixels, for each block."""
        return (PATCH,) * self.depth

    @property
    def not_in_timm(self) -> str:
        """The attention."""
        return "an attention with a bias by distance (CROMA)"

    def make(self, name: str | None = None, fixed: int = 0) -> Croma:
        """Returns the module, with `fixed` first stages that do not learn."""
        return Croma(self.depth, self.width, self.remat, jnp.dtype(self.dtype), fixed=fixed, name=name)


AnyEncoder = ResNetConfig | ViTConfig | CromaConfig
