"""What the cards of exported functions share: the formats that hold a whole model, not one encoder."""

from collections.abc import Callable, Mapping
from typing import Any

from dual_encoder.config import parse
from dual_encoder.export import inputs
from dual_encoder.export.card_code import code
from dual_encoder.export.network import parameters
from dual_encoder.export.source import Content, Source
from dual_encoder.tasks.build import AnyTask
from dual_encoder.tasks.segment import SegmentConfig

_FREE = "other sizes work, from 32 px"


def content(source: Source, files: Mapping[str, bytes], load: Callable[[str], Any], library: str, *,
            input: inputs.Input | None = None, sizes: str = _FREE, note: str = "") -> Content:
    """Returns the content of an export that holds the function of `source`.

    Args:
      source: what was exported.
      files: name -> content.
      load: loads them again; the card shows its code.
      library: name of the library that loads the files.
      input: form of the images that `load` takes; None: that of the source.
      sizes: a phrase about other sizes of images.
      note: a line for the person who exports.
    """
    network, form = source.network, input or source.input
    side = source.image_size
    loading = code(load, {name: ((1, side, side, len(spec.bands)), inputs.dtype(spec, form))
                          for name, spec in network.inputs.items()}, network.outputs)
    config: AnyTask = parse(AnyTask, source.model.config, stored=True)
    about = f"{parameters(network):,} values in float32; the function computes in float32."
    if network.classes:
        about += f" Classes: {', '.join(f'{number} {name}' for number, name in enumerate(network.classes))}."
    if isinstance(config, SegmentConfig) and config.window:
        about += (f" The scores of the run blend windows of {config.window} px, which overlap by "
                  f"{config.overlap:g}; this function predicts a whole image at once.")
    kind = {"encoder": "encoder", "segmentation": "segmentation model", "classification": "classifier"}[network.kind]
    family = f"{config.encoder.family}-{config.encoder.depth}"
    return Content(f"{family} {kind} of {' and '.join(spec.name for spec in network.inputs.values())}", about,
                   network.inputs, form, "[batch, height, width, bands]", network.outputs, sizes, loading, files,
                   lambda: network, library, note)
