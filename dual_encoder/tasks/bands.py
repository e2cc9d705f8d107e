"""An encoder on images that lack some of its bands: the kernels of its first layer are selected by name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.models.fusion import Fusion, encoder_names
from dual_encoder.workdir.checkpoint import LoadedModel

AdaptBands = Literal["none", "select"]


def fitted(theirs: SensorSpec, stored: SensorSpec, adapt: AdaptBands | None, folder: str) -> SensorSpec:
    """Returns the sensor that an encoder takes on the images of a data set.

    Args:
      theirs: the sensor that the encoder was trained with.
      stored: the sensor of the data set.
      adapt: 'select': a data set may lack bands of the encoder; None: the task has no key to ask for it.
      folder: of the data set, for errors.

    Returns:
      `theirs`, or its subset with the bands of the data set. Statistics are those of `theirs`, band by band.

    Raises:
      UserError: the data set stores other bands or another unit, or lacks bands and nobody asked to select.
    """
    if set(stored.bands) < set(theirs.bands) and adapt:
        if adapt == "none":
            raise UserError(f"data set '{folder}' stores {' '.join(stored.bands)}, the checkpoint takes "
                            f"{' '.join(theirs.bands)}; set --config.adapt_bands=select to keep the kernels of these "
                            "bands and leave the others out, or use data with all bands")
        theirs = dataclasses.replace(theirs.subset(stored.bands), provenance=(
            f"{theirs.provenance}; of an encoder of {' '.join(theirs.bands)}: kernels of the other bands are left out "
            "(adapt_bands=select)"))
    theirs.check_matches(stored, f"data set '{folder}'", "the checkpoint")
    return theirs


def selected(model: LoadedModel, sensors: Mapping[str, SensorSpec], fusion: Fusion, first_layer: str
             ) -> Mapping[str, Any]:
    """Returns the variables of a checkpoint with the kernels of some bands.

    Args:
      model: the checkpoint.
      sensors: feature -> sensor that its encoder takes now, as of `fitted`.
      fusion: of the encoders.
      first_layer: name of their first layer.

    Returns:
      {'params', 'batch_stats'}; those of `model` if all bands are there.
    """
    params = dict(model.variables["params"])
    for name in encoder_names(tuple(sensors), fusion):
        stack = list(sensors) if fusion == "early" else [name]
        kept = _places([(model.sensors[one], sensors[one]) for one in stack])
        whole = sum(len(model.sensors[one].bands) for one in stack)
        key = f"{name}_encoder"
        if len(kept) < whole and first_layer in params.get(key, {}):  # else the shapes tell
            layer = dict(params[key][first_layer])
            layer["kernel"] = layer["kernel"][:, :, kept]
            params[key] = {**params[key], first_layer: layer}
    return {**model.variables, "params": params}


def _places(stack: Sequence[tuple[SensorSpec, SensorSpec]]) -> list[int]:
    """Returns the numbers of the bands to keep in a stack of images, of (sensor of the encoder, sensor now)."""
    kept, start = list[int](), 0
    for theirs, now in stack:
        kept += [start + theirs.bands.index(band) for band in now.bands]
        start += len(theirs.bands)
    return kept
