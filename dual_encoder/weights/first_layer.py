"""The first layer of an encoder for other bands than it was trained with."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from dual_encoder.errors import UserError

Rule = Literal["", "select", "mean", "zero"]
RULES: tuple[Rule, ...] = ("select", "mean", "zero")


def for_bands(weights: Mapping[str, np.ndarray], theirs: Sequence[str], wanted: Sequence[str], rule: Rule
              ) -> tuple[dict[str, np.ndarray], str]:
    """Returns weights that take other bands, or the same ones in another order, and a sentence about the change.

    Args:
      weights: timm's key -> array, with `conv1.weight` or `patch_embed.proj.weight` [out, bands, h, w].
      theirs: bands of the weights, in order.
      wanted: bands to take, in order.
      rule: '' = both must be the same bands; 'select' keeps the kernels of the wanted bands, which must all be there;
        'mean' and 'zero' give a band that is not there the mean of all kernels, or zeros. Kernels of bands that are not
        wanted are left out. Nothing is rescaled.

    Raises:
      UserError: the weights take another number of bands than `theirs`, or the bands differ and the rule does not allow
        it.
    """
    key = next(key for key in ("conv1.weight", "patch_embed.proj.weight") if key in weights)
    kernel = weights[key]
    lists = f"the weights take {' '.join(theirs)}, the sensor has {' '.join(wanted)}"
    if kernel.shape[1] != len(theirs):
        raise UserError(f"the weights take {kernel.shape[1]} bands, expected {' '.join(theirs)}; name the bands of the "
                        "file in its order with --file-bands=...")
    new, unused = [band for band in wanted if band not in theirs], [band for band in theirs if band not in wanted]
    if (new or unused) and not rule:
        raise UserError(f"the bands differ: {lists}; give another --sensor, or ask for other bands with "
                        "--adapt=select, mean or zero")
    if new and rule == "select":
        raise UserError(f"--adapt=select needs all bands in the weights: {lists}; give --bands=... without "
                        f"{' '.join(new)}, or --adapt=mean or zero")
    filled = kernel.mean(axis=1) if rule == "mean" else np.zeros_like(kernel[:, 0])
    changed = np.stack([kernel[:, theirs.index(band)] if band in theirs else filled for band in wanted], axis=1)
    said = []
    if unused:
        said.append(f"left out: {' '.join(unused)}")
    if new:
        said.append(f"{'mean of all kernels' if rule == 'mean' else 'zeros'} for {' '.join(new)}")
    if not said and list(theirs) != list(wanted):
        said.append(f"reordered from {' '.join(theirs)}")
    return {**weights, key: changed.astype(kernel.dtype)}, "; ".join(said) or "as published"
