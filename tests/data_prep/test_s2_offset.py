"""The detector of the S2 offset: its error rates on real images, and the cases that it must get right by design."""

import numpy as np
import pytest
import rasterio

from dual_encoder.errors import UserError
from dual_encoder.imagery.s2_offset import detect_s2_offset
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

L1C, L2A = SENSORS["s2_l1c"].bands, SENSORS["s2_l2a"].bands


def read(path):
    with rasterio.open(path) as file:
        return np.moveaxis(file.read(), 0, -1)


def with_offset(dn):
    """What a product of baseline 04.00 holds: no-data stays 0, DN saturates at 65535."""
    return np.where((dn != 0).any(-1, keepdims=True), np.minimum(dn.astype(int) + 1000, 65535), 0).astype(np.uint16)


@pytest.fixture(scope="module")
def images(real_data):
    """Source -> [(DN without the offset, bands)]."""
    found = {}
    for name in ("bigearthnet", "worldcereal"):
        with np.load(real_data / name / "pairs.npz") as file:
            bands = file["s2_bands"].tolist()
            found[name] = [(np.moveaxis(dn, 0, -1), bands) for dn in file["s2"]]
    found["sen12ms_cr"] = [(read(path), L1C) for path in sorted((real_data / "sen12ms_cr").glob("s2_*/*.tif"))]
    found["sen1floods11"] = [(read(path), L1C) for path in sorted((real_data / "sen1floods11").rglob("*_S2Hand.tif"))]
    found["terramesh"] = [(read(path), L2A) for path in sorted((real_data / "terramesh" / "S2L2A").glob("*.tif"))
                          if not path.stem.startswith("433D")]
    return found


@pytest.mark.parametrize("source, count, wrong", [
    ("bigearthnet", 115, 0), ("worldcereal", 82, 2), ("sen12ms_cr", 4, 0), ("sen1floods11", 1, 0),
    ("terramesh", 3, 0)])
def test_error_rates_are_those_of_the_docstring(images, source, count, wrong):
    assert len(images[source]) == count
    assert sum(detect_s2_offset(dn, bands) != 0 for dn, bands in images[source]) == wrong
    assert sum(detect_s2_offset(with_offset(dn), bands) != 1000 for dn, bands in images[source]) == 0


def test_the_one_real_image_that_carries_it(real_data):
    assert detect_s2_offset(read(real_data / "terramesh/S2L2A/433D_629L_3_1.tif"), L2A) == 1000


def test_reflectances_below_zero_do_not_hide_the_offset(images):
    """Where old products clip at 1, new ones go below 1000 by some hundredths: a simulation of them."""
    random = np.random.default_rng(0)
    clipped = [(dn, bands) for dn, bands in images["bigearthnet"] if ((dn <= 1) & (dn != 0)).mean() > 0.01]
    assert len(clipped) > 5
    for dn, bands in clipped:
        below = 1000 - np.minimum(np.abs(random.normal(0, 100, dn.shape)), 300)
        assert detect_s2_offset(np.where(dn <= 1, below, with_offset(dn)).astype(np.uint16), bands) == 1000


def test_no_data_faults_and_fillers_do_not_decide():
    image = np.full((20, 20, 13), 2500, np.uint16)
    assert detect_s2_offset(image, L1C) == 1000
    image[:10] = 0  # half of it without data
    assert detect_s2_offset(image, L1C) == 1000
    image[..., L1C.index("B10")] = 0  # L2A in 13 slots
    assert detect_s2_offset(image, L1C) == 1000
    image[10, 0, 3] = 40  # 1 of 200 pixels
    assert detect_s2_offset(image, L1C) == 1000
    image[11, :3, 3] = 40
    assert detect_s2_offset(image, L1C) == 0
    assert detect_s2_offset(np.zeros((4, 4, 12), np.int16), L2A) == 0


def test_the_edge_of_a_detector_is_not_dark():
    dn = np.full((20, 20, 13), 1300, np.uint16)
    dn[:, :3, 1] = 0
    assert detect_s2_offset(dn, SENSORS["s2_l1c"].bands) == 1000
    dn[:, :3, 1] = 300
    assert detect_s2_offset(dn, SENSORS["s2_l1c"].bands) == 0


def test_bands_that_cannot_tell_are_an_error():
    image = np.zeros((4, 4, 2), np.uint16)
    for bands in (("B08", "B8A"), ("B02", "B03"), ("B11", "B12")):
        with pytest.raises(UserError, match=f"bands {' '.join(bands)} do not show the S2 offset"):
            detect_s2_offset(image, bands)
    with pytest.raises(UserError, match=r"shape \[4, 4, 2\] does not fit 12 band names"):
        detect_s2_offset(image, L2A)
