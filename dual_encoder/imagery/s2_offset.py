"""Detects from the pixels whether Sentinel-2 values still carry the DN offset of processing baseline 04.00.

For data sets that mix both conventions image by image and do not state them (TerraMesh). If the release decides
(SSL4EO-S12, BigEarthNet), trust the release.

The rule. Baseline 04.00 (25 January 2022) adds 1000 to every DN so that reflectances below 0 survive. Nearly every
land or water image has something dark in some band: vegetation, water and shadow in the visible, water, snow and ice in
the short-wave infrared, and in L1C everything in B10, where water vapour hides the ground. So without the offset some
band has pixels with a reflectance below 0.07, DN 700; with it the same pixels lie at 1000 and more, or somewhat below
if the atmospheric correction went under 0. An image is without the offset if more than 1 % of its pixels (fewer may be
faults) lie below 700 in some band. Why 700: the clear images at hand have 1 % of a band below 531, or 1531 with the
offset added; the margin leaves room for reflectances down to -0.03, which images without the offset cannot show.

Wrong answers on real images (tests/data_prep/test_s2_offset.py counts them again):

                             as published, no offset    the same + 1000
    BigEarthNet      L2A          0 of 115                 0 of 115
    WorldCereal      L2A          2 of  82                 0 of  82     the two are thick cloud all over (64x64 pixels)
    SEN12MS-CR       L1C          0 of   4                 0 of   4     two of them cloudy
    SSL4EO-S12 v1.0  L1C, L2A     0 of   4                 0 of   4
    Sen1Floods11     L1C          0 of   1                 0 of   1
    TerraMesh        L2A          0 of   3                 0 of   3
    TerraMesh tile 433D_629L_3_1, published with the offset: 0 of 1 wrong

It fails on L2A images that are bright in every band and nearly every pixel: thick cloud, probably also bright desert
(none at hand). There it finds an offset that does not exist, and the image becomes too dark by 0.1.
"""

from collections.abc import Sequence

import numpy as np

from dual_encoder.errors import UserError

OFFSET = 1000
DARK = 700  # DN
DARK_SHARE = 0.01
_VISIBLE, _INFRARED = ("B01", "B02", "B03", "B04"), ("B10", "B11", "B12")


def shows_offset(bands: Sequence[str]) -> bool:
    """Returns True if these bands are dark enough in some image to show the offset: a visible and an infrared one."""
    return bool(set(bands) & set(_VISIBLE) and set(bands) & set(_INFRARED))


def detect_s2_offset(dn: np.ndarray, bands: Sequence[str]) -> int:
    """Returns the DN offset of one image.

    Args:
      dn: [height, width, bands], integers of an L1C or L2A product; 0 in all bands = no data.
      bands: names in the order of the last axis, 'B01' ... 'B12'.

    Returns:
      0 or 1000, for `radiometry.remove_s2_offset`; 0 if no pixel holds data.

    Raises:
      UserError: `bands` does not fit, or lacks the visible or the short-wave infrared, in which images are dark.
    """
    if dn.ndim != 3 or dn.shape[-1] != len(bands):
        raise UserError(f"S2 image of shape {list(dn.shape)} does not fit {len(bands)} band names; expected [height, "
                        "width, bands]")
    if not shows_offset(bands):
        raise UserError(f"bands {' '.join(bands)} do not show the S2 offset; expected one of {' '.join(_VISIBLE)} and "
                        f"one of {' '.join(_INFRARED)}")
    pixels = dn[(dn != 0).any(axis=-1)]
    pixels = pixels[:, (pixels != 0).any(axis=0)]  # a product without a band may fill it with 0
    # A 0 in one band is dark without the offset, and no data with it, at the edge of a detector: it tells nothing.
    dark = ((pixels < DARK) & (pixels != 0)).mean(axis=0) if pixels.size else np.ones(1)
    return 0 if dark.max() > DARK_SHARE else OFFSET
