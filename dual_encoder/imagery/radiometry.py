"""Product values -> the stored integers of dual_encoder.sensors. Pure numpy."""

import numpy as np

from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import IGNORED, SensorSpec

S1_NO_DATA = -32768  # as in the specs of the radar sensors
S2_NO_DATA = 0
WATER_WEAK_CLASSES = ("other", "water", "vegetation")
_NIR_OF_SNOW = 0.11
_NDVI_OF_VEGETATION = 0.5


def linear_to_db(power: np.ndarray) -> np.ndarray:
    """Converts backscatter power to decibel, 10 log10(power).

    Args:
      power: any shape, float, linear sigma0 or gamma0.

    Returns:
      float32 dB; NaN if the power is not positive and finite (a border fringe is 0, not minus infinity).
    """
    good = np.isfinite(power) & (power > 0)
    return np.where(good, 10 * np.log10(np.where(good, power, 1)), np.nan).astype(np.float32)


def db_to_int16(db: np.ndarray) -> np.ndarray:
    """Rounds decibels to hundredths.

    Args:
      db: [height, width, bands] float, dB; not finite = no data.

    Returns:
      int16 of that shape, hundredths of dB. -32768 in all bands of a pixel that is not finite in any of them, so that
      "every band has the no-data value" finds it; valid values stay within -32767..32767.
    """
    valid = np.isfinite(db).all(axis=-1, keepdims=True)
    hundredths = np.rint(np.where(valid, db, 0).astype(np.float64) * 100)
    return np.where(valid, np.clip(hundredths, -32767, 32767), S1_NO_DATA).astype(np.int16)


def without_zeros(db: np.ndarray) -> np.ndarray:
    """Returns decibels with NaN in place of pixels that are exactly 0 in all bands: an untagged border.

    A 0 in one of two bands is data: values may stop at 0 dB, on bright roofs. Both bands of a real pixel are not
    exactly 0.

    Args:
      db: [height, width, bands] float, dB.
    """
    zero = (db == 0).all(axis=-1, keepdims=True)
    return np.where(zero, np.nan, db) if zero.any() else db


def zero_areas(db: np.ndarray) -> np.ndarray:
    """Finds untagged borders in decibels: areas in which all bands are exactly 0.

    A pixel belongs to one if it lies in a square of 2 x 2 such pixels, or touches one that does. Pixels outside the
    image count as such. So a single target of 0 dB stays data, and no zero remains along a slanting border.

    Args:
      db: [bands, height, width] float, dB.

    Returns:
      bool [height, width].
    """
    zero = (db == 0).all(axis=0)
    if not zero.any():
        return zero
    wide = np.pad(zero, 1, constant_values=True)
    squares = wide[:-1, :-1] & wide[1:, :-1] & wide[:-1, 1:] & wide[1:, 1:]  # by their upper left corner
    covered = squares[:-1, :-1] | squares[1:, :-1] | squares[:-1, 1:] | squares[1:, 1:]
    around = np.pad(covered & zero, 1)
    height, width = zero.shape
    near = [around[row:row + height, column:column + width] for row in range(3) for column in range(3)]
    return zero & np.any(near, axis=0)


def remove_s2_offset(dn: np.ndarray, offset: int) -> np.ndarray:
    """Removes the DN offset that processing baseline 04.00 (2022) added to Sentinel-2 products.

    A pixel is without data if all its bands are 0. Without an offset, a 0 in one band of another pixel is a dark
    surface. With one, a dark surface is near 1000 and 0 is never data: the pixel lies at the edge of a detector or of
    the swath. Then a pixel with a 0 in any band is without data. Values that would fall below 1 become 1: no valid
    pixel turns into no-data.

    Args:
      dn: [height, width, bands], integers of the product.
      offset: the DN to subtract, 0 for older baselines, 1000 from 04.00 on.

    Returns:
      uint16 of that shape, reflectance x 10000; 0 in all bands = no data.

    Raises:
      UserError: the values are no integers.
    """
    if dn.dtype.kind not in "iu":
        raise UserError(f"the values of Sentinel-2 are {dn.dtype}, expected integers, reflectance x 10000; convert "
                        "them")
    if offset == 0:
        return np.clip(dn, 0, 65535).astype(np.uint16)
    if np.iinfo(dn.dtype).max <= offset:
        dn = dn.astype(np.int32)
    valid = (dn != S2_NO_DATA).all(axis=-1, keepdims=True)
    # In the integers of the product, which may be a whole scene: no copy of eight bytes a value.
    return np.where(valid, np.clip(np.maximum(dn, offset + 1) - offset, 1, 65535), S2_NO_DATA).astype(np.uint16)


def upsample_native(band: np.ndarray, size: int) -> np.ndarray:
    """Repeats the pixels of a 20 m or 60 m band to 10 m (nearest neighbour, corners aligned).

    Args:
      band: [height, width], any dtype; square.
      size: height and width of the result, an integer multiple of the band's.

    Returns:
      [size, size] of the same dtype.

    Raises:
      UserError: the band is not square or `size` is no multiple of its size.
    """
    height, width = band.shape
    if height != width or height == 0 or size % height:
        raise UserError(f"band of {height}x{width} pixels does not fill {size}x{size} by whole repeats; expected a "
                        "square 10, 20 or 60 m band of the same area")
    return band.repeat(size // height, axis=0).repeat(size // height, axis=1)


def water_bands(spec: SensorSpec) -> list[int]:
    """Returns the places of B03, B04, B08 and B11 among a sensor's bands; UserError if it lacks one."""
    wanted = ("B03", "B04", "B08", "B11")
    missing = [band for band in wanted if band not in spec.bands]
    if missing:
        raise UserError(f"water_weak labels need bands B03 B04 B08 B11, sensor '{spec.name}' lacks "
                        f"{' '.join(missing)}; use a data set with these bands")
    return [spec.bands.index(band) for band in wanted]


def weak_water_labels(s2: np.ndarray, spec: SensorSpec) -> np.ndarray:
    """Labels water and vegetation by spectral indices. Weak labels: cloud shadow and dark roofs may pass for water.

    NDWI  = (B03 - B08) / (B03 + B08)   McFeeters 1996, doi 10.1080/01431169608948714; water > 0
    MNDWI = (B03 - B11) / (B03 + B11)   Xu 2006, doi 10.1080/01431160600589179; water > 0
    NDVI  = (B08 - B04) / (B08 + B04)   Rouse et al. 1974, NASA SP-351; dense green vegetation >= 0.5
    Water needs both water indices and B08 <= 0.11: snow passes the indices; its near infrared sets it apart, as
    in the snow map of Hall et al. 1995 (doi 10.1016/0034-4257(95)00137-P).

    Args:
      s2: [height, width, bands], stored integers of `spec`, offset removed.
      spec: the sensor; must hold B03, B04, B08 and B11.

    Returns:
      uint8 [height, width]: 0 other, 1 water, 2 vegetation, 255 no data in `s2`.

    Raises:
      UserError: a band is missing.
    """
    green, red, nir, swir = (s2[..., band] * np.float32(spec.scale) for band in water_bands(spec))
    # The signs and ratios below are the indices' thresholds without the division: no division by zero.
    water = (green > nir) & (green > swir) & (nir <= _NIR_OF_SNOW)
    vegetation = (nir - red >= _NDVI_OF_VEGETATION * (nir + red)) & (nir + red > 0) & ~water
    label = np.select([water, vegetation], [np.uint8(1), np.uint8(2)], np.uint8(0))
    label[~spec.holds_data(s2)] = IGNORED
    return label
