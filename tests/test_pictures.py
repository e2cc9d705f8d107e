"""Pictures for people: one stretch for all radar, a clear hatch, colours that all can tell apart."""

import itertools

import numpy as np
import pytest

from dual_encoder.data.labels import LabelSpec
from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation import confusion_matrix
from dual_encoder.evaluation.worst_images import WorstImages, error_map
from dual_encoder.imagery.palette import COLOURS, class_colours, label_to_rgb
from dual_encoder.imagery.pictures import class_legend, grid, image_to_rgb
from dual_encoder.imagery.sensors import SENSORS

pytestmark = pytest.mark.quick

# Linear RGB as people with a colour vision deficiency of severity 1 see it: Machado, Oliveira and Fernandes, "A
# Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15 (2009).
VISION = {
    "trichromat": np.eye(3),
    "deuteranope": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                             [-0.011820, 0.042940, 0.968881]]),
    "protanope": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                           [-0.003882, -0.048116, 1.051998]])}


def cielab(rgb, vision):
    """sRGB 0..255 -> CIELAB of the colour that is seen (CIE 15, white point D65)."""
    share = np.asarray(rgb) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        vision @ linear, 0, 1) / (0.9505, 1, 1.089)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_any_two_of_twenty_class_colours_can_be_told_apart(vision):
    assert len(COLOURS) == len(set(COLOURS)) == 20
    seen = [cielab(colour, VISION[vision]) for colour in COLOURS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 19  # 2.3 is just noticeable
    first = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen[:6], 2))
    assert first > 34, "a task of a few classes has the clearest colours"


def test_colours_of_the_description_replace_those_of_the_palette():
    assert class_colours(3, ("", "#010aff")) == [COLOURS[0], (1, 10, 255), COLOURS[2]]
    assert class_colours(21)[20] == COLOURS[0]
    picture = label_to_rgb(np.array([[1, 0]], np.uint8), ("", "#010aff"))
    assert picture.tolist() == [[[1, 10, 255], list(COLOURS[0])]]
    label = LabelSpec("pixel_classes", ("land", "water"), colours=("", "#010aff"))
    assert LabelSpec.from_json(label.to_json(), label.classes).colours == label.colours
    assert label.to_json() == {"kind": "pixel_classes", "unit": "", "colours": ",#010aff"}
    for wrong in (("#010aff",), ("red", "")):
        with pytest.raises(UserError, match="expected one for each of 2 classes, such as '#2166c8'"):
            LabelSpec("pixel_classes", ("land", "water"), colours=wrong)


def test_a_flooded_and_a_dry_tile_differ_in_radar():
    spec = SENSORS["s1_grd"]
    rng = np.random.default_rng(0)

    def tile(vv, vh):
        return (np.array([vv, vh]) * 100 + rng.normal(0, 80, (32, 32, 2))).astype(np.int16)

    water, land = (image_to_rgb(tile(*dB), spec).mean((0, 1)) for dB in ((-22, -29), (-9, -15)))
    assert (land[:2] - water[:2] > 100).all()
    same = image_to_rgb(tile(-9, -15)[:8], spec).mean((0, 1))  # another image of land has the same colours
    np.testing.assert_allclose(same, land, atol=8)


@pytest.mark.parametrize("sensor", ["s1_grd", "s2_l2a", "ombria_s2"])
def test_the_hatch_is_in_no_composite(sensor):
    spec = SENSORS[sensor]
    limits = np.iinfo(spec.dtype)
    image = np.random.default_rng(0).integers(limits.min, limits.max, (64, 48, len(spec.bands))).astype(spec.dtype)
    picture = image_to_rgb(image, spec)
    assert picture.min() >= 1 and picture.max() <= 254
    if spec.no_data is not None:
        image[:32] = spec.no_data
        top = image_to_rgb(image, spec)[:32].reshape(-1, 3)
        assert {tuple(pixel) for pixel in top.tolist()} == {(0, 0, 0), (255, 255, 255)}
        assert 0.15 < (top == 0).all(-1).mean() < 0.35, "lines on a ground"


def test_a_sheet_has_titles_over_columns_and_a_legend():
    tile = np.full((4, 4, 3), 100, np.uint8)
    bare = grid([[tile, tile]], 40)
    sheet = np.asarray(grid([[tile, tile]], 40, ("a", "b"), ("a very long name of a tile " * 9,),
                            class_legend(("land", "water"))))
    assert bare.size == (2 * 44 + 4, 48) and sheet.shape[1] == 150 + 2 * 44 + 4 + 190
    assert (sheet[:21, 154:194] < 90).any() and (sheet[:21, 198:238] < 90).any(), "titles"
    assert (sheet[21:, :146] < 90).any() and (sheet[21:, 146:154] == 255).all(), "the text at the side ends there"
    legend = sheet[:, 246:].reshape(-1, 3)
    assert {COLOURS[0], COLOURS[1], (0, 0, 0)} <= {tuple(pixel) for pixel in legend.tolist()}


def test_the_worst_images_are_named_and_sorted():
    spec = SENSORS["s1_grd"]
    worst = WorstImages(("dry", "wet"), 2)
    label = np.zeros((8, 8), np.uint8)
    label[:4] = 1
    for number, wrong in enumerate((3, 0, 8, 5)):
        prediction = label.copy()
        prediction[0, :wrong] = 0
        worst.add(number, confusion_matrix(label, prediction, 2), label, prediction)
    nothing = np.full((8, 8), 255, np.uint8)
    worst.add(4, confusion_matrix(nothing, label, 2), nothing, label)
    found = worst.evaluation(lambda number: (f"tile{number}", [np.zeros((8, 8, 2), np.int16)]), spec, ("input",))
    table = found.tables[0]
    assert [row.title for row in table.rows] == ["tile2", "tile3"] and [row.values[2] for row in table.rows] == [8, 5]
    assert table.rows[0].values[0] == pytest.approx((32 / 40 + 24 / 32) / 2)
    assert found.scores() == {} and found.images["worst_images"].height == 21 + 2 * 164 + 4
    assert not WorstImages(("dry", "wet"), 2).evaluation(lambda number: ("", []), spec, ()).tables


def test_an_error_map_shows_wrong_pixels_alone():
    label, prediction = np.array([[0, 1, 255]], np.uint8), np.array([[0, 0, 0]], np.uint8)
    right, wrong, ignored = error_map(label, prediction)[0]
    assert wrong.sum() < 300 < 600 < right.sum() and set(ignored.tolist()) <= {0, 255}
