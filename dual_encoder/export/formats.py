"""The table of formats. A new one is a file of its own with `write` and `load`, and a line here."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from dual_encoder.export import (
    huggingface,
    npz,
    onnx,
    orbax,
    pangaea,
    saved_model,
    stablehlo,
    terratorch,
    timm,
    torchgeo,
    torchgeo_bench,
)
from dual_encoder.export.source import Content, Source


class Format(NamedTuple):
    """How a format is written and read.

    Attributes:
      write: returns its files and the facts for the card; raises UserError.
      load: folder -> function of images by name, [batch, height, width, bands], to outputs by name, in the format's
        own runtime. The card shows its code, if it shows no other.
      packages: of the runtime; they are not installed by the project itself.
      code: files of the export that hold Python -> the files here that they are copies of.
    """

    write: Callable[[Source], Content]
    load: Callable[[str], Callable[[Mapping[str, Any]], Mapping[str, Any]]]
    packages: tuple[str, ...] = ()
    code: Mapping[str, str] = MappingProxyType({})


FORMATS = {
    "timm": Format(timm.write, timm.load, ("torch", "timm")),
    "huggingface": Format(huggingface.write, huggingface.load, ("torch", "timm", "huggingface_hub")),
    "torchgeo": Format(torchgeo.write, torchgeo.load, ("torch", "torchgeo"), torchgeo.CODE),
    "terratorch": Format(terratorch.write, terratorch.load, ("torch", "terratorch"), terratorch.CODE),
    "torchgeo_bench": Format(torchgeo_bench.write, torchgeo_bench.load, ("torch", "timm", "torchgeo_bench"),
                             torchgeo_bench.CODE),
    "pangaea": Format(pangaea.write, pangaea.load, ("torch", "timm", "omegaconf", "pangaea"), pangaea.CODE),
    "stablehlo": Format(stablehlo.write, stablehlo.load),
    "saved_model": Format(saved_model.write, saved_model.load, ("tensorflow",)),
    "onnx": Format(onnx.write, onnx.load, ("onnxruntime",)),
    "npz": Format(npz.write, npz.load),
    "orbax": Format(orbax.write, orbax.load),
}
