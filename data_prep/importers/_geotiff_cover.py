"""How much of an optical image a radar image covers, for the choice between slices of one pass."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_prep.importers._geotiff_json import Description
from dual_encoder.errors import UserError
from dual_encoder.imagery import raster

_SIDE = 64  # pixels of the coarse image on which shares are measured


class Cover:
    """Measures shares; files are opened only for images between which there is a choice."""

    def __init__(self, raw: pathlib.Path, said: Description):
        self._raw, self._said = raw, said

    def share(self, s1: Sequence[str], s2: Sequence[str]) -> Callable[[int, int], float]:
        """Returns (number of an S1 image, number of an S2 image) -> share of the S2 image's grid, 0..1.

        A pixel counts if both images have data there. An image that cannot be read has the share 0: reading reports it.
        """
        no_data = {feature: images.no_data for feature, images in self._said.images.items()}
        return lambda i, j: _share(self._first_band("s1", s1[i]), self._first_band("s2", s2[j]), no_data)

    def _first_band(self, feature: str, path: str) -> pathlib.Path:
        return self._raw / next(iter(self._said.images[feature].paths(path).values()))


def _share(s1: pathlib.Path, s2: pathlib.Path, no_data: Mapping[str, float | None]) -> float:
    """Returns the share of pixels of a coarse S2 grid at which both files have data; `no_data` as in geotiff.json."""
    try:
        with raster.opened(s1, str(s1)) as (radar, *_), raster.opened(s2, str(s2)) as (optical, *_):
            from rasterio.vrt import WarpedVRT

            optical_data = _has_data(optical, no_data["s2"])
            if radar.crs is None or optical.crs is None:
                return float((_has_data(radar, no_data["s1"]) & optical_data).mean())
            coarse = optical.transform @ optical.transform.scale(optical.width / _SIDE, optical.height / _SIDE)
            with WarpedVRT(radar, crs=optical.crs, transform=coarse, width=_SIDE, height=_SIDE,
                           src_nodata=0 if radar.nodata is None else radar.nodata) as onto:
                return float((_has_data(onto, no_data["s1"]) & optical_data).mean())
    except UserError:
        return 0.0


def _has_data(file: Any, no_data: float | None) -> np.ndarray:
    """Returns bool [_SIDE, _SIDE]: the first band is not masked, not 0, not NaN and not `no_data`."""
    values = file.read(1, out_shape=(_SIDE, _SIDE), masked=True)
    return ~np.ma.getmaskarray(values) & np.isfinite(values.data) & ~np.isin(values.data, [0, no_data or 0])
