"""Labels of every kind from an importer to a batch, and data sets of sensors that the project does not have."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from data_prep import importers
from data_prep.build import builder
from data_prep.build.config import Config, make_config
from data_prep.importers import Entry, Layout
from data_prep.look import inspection
from data_prep.record import Pair, Tile, cut
from data_prep.s1s2_pairs.s1s2_pairs_dataset_builder import Builder as PairBuilder
from data_prep.s1s2_tiles.s1s2_tiles_dataset_builder import Builder as TileBuilder
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.manifest import DatasetInfo, load_info, merge
from dual_encoder.data.records import BatchReader, Records
from dual_encoder.data.shapes import shapes
from dual_encoder.errors import UserError
from dual_encoder.imagery import pictures, sensors
from dual_encoder.imagery.sensors import SENSORS, SensorSpec

pytestmark = pytest.mark.quick

SIZE, COUNT, DAY = 12, 9, 86400
SPECS = {
    "pixel_classes": LabelSpec("pixel_classes", ("a", "b")), "change": LabelSpec("change", ("same", "flooded")),
    "image_class": LabelSpec("image_class", tuple(f"class{i}" for i in range(300))),
    "image_classes": LabelSpec("image_classes", ("a", "b", "c")), "number": LabelSpec("number", unit="t/ha"),
}
LANDSAT = SensorSpec(
    "l8_sr", "optical", ("B1", "B2", "B3", "B4", "B5", "B6", "B7"), "surface reflectance (C2 L2)", 2.75e-5, "uint16", 0,
    (9000.0,) * 7, (1500.0,) * 7, "made up", rgb=("B4", "B3", "B2"), tags=("landsat",),
    notes="Subtract 0.2 / 2.75e-5 from the stored integers of the product first.")
HEIGHT = SensorSpec("dem", "elevation", ("height",), "m", 1.0, "int16", -32768, (200.0,), (300.0,), "made up",
                    feature="s3")


def label_of(kind: str, number: int) -> np.ndarray:
    if SPECS[kind].per_pixel:
        label = np.full((SIZE, SIZE), number % 2, np.uint8)
        label[0] = 255
        return label
    if kind == "image_classes":
        return np.array([number % 2, number % 3 == 0, 0], np.uint8)
    return np.array(290 + number, np.int32) if kind == "image_class" else np.array(number / 2, np.float32)


@pytest.fixture
def toy(monkeypatch):
    """Returns a function that installs the importer 'toy': of the images and the label that it is given."""
    def install(features, label_kind=""):
        rng = np.random.default_rng(0)
        label = SPECS.get(label_kind)

        class Importer:
            def __init__(self, raw, kind, chosen):
                self.specs = {feature: sensors.sensor(name) for feature, name in chosen.items()}

            @staticmethod
            def layout(kind, raw=None):
                return Layout({feature: (name,) for feature, name in features.items()}, tuple(features), SIZE, label,
                              {"licence": "none", "attribution": "none", "notes": "none"})

            def entries(self):
                for number in range(COUNT):
                    times = {feature: number * place * DAY for place, feature in enumerate(self.specs)}
                    yield Entry(f"r{number}", f"r{number}", "train", {"number": number}, times=times)

            def read(self, entry):
                # Radar of -15 to -10 dB, VH 7 dB less: other values are refused.
                images = {feature: (rng.integers(-1500, -1000, (SIZE, SIZE, 2)) - (0, 700)
                                    if spec.modality == "sar" else
                                    rng.integers(100, 5000, (SIZE, SIZE, len(spec.bands)))).astype(spec.dtype)
                          for feature, spec in self.specs.items()}
                if label is None:
                    return Pair.of(entry, images=images, source="toy")
                return Tile.of(entry, images=images, label=label_of(label_kind, entry.where["number"]), source="toy")

        module = types.ModuleType("data_prep.importers.toy")
        module.Importer = Importer
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(importers, "names", lambda: ["toy"])
    return install


def build(tmp_path, kind="tiles", **options):
    config = make_config("toy", kind, **options)
    made = (TileBuilder if kind == "tiles" else PairBuilder).of(config, str(tmp_path / "data"))
    made.build(tmp_path, builder.How())
    return made


# Labels

@pytest.mark.parametrize("kind", SPECS)
def test_labels_of_every_kind_reach_the_batch_and_tfds_reads_the_same(toy, tmp_path, kind):
    toy({"s2": "s2_l2a"}, kind)
    made = build(tmp_path)
    info = load_info(made.data_path)
    assert info.label == SPECS[kind] and info.classes == SPECS[kind].classes
    assert info.tensors["label"].shape == SPECS[kind].shape(SIZE) and DatasetInfo.from_json(info.to_json()) == info
    records = Records(made.data_path, "train", ("s2", "label"))
    for threads in (1, 3):
        reader = BatchReader(records, threads)
        for numbers in ([3, 0, 8, 3, 7], [1, 2, 4, 5, 6]):
            batch = reader(numbers)
            expected = np.stack([label_of(kind, number) for number in numbers])
            assert batch["label"].dtype == expected.dtype
            np.testing.assert_array_equal(batch["label"], expected)
    assert not records.bad and len({int(place) for place in batch["location"]}) == 5
    # TFDS's own decoder of the features that it wrote down, given the stored bytes.
    example = made.info.features.deserialize_example_np(records.parts[0].payload(5))
    np.testing.assert_array_equal(example["label"], label_of(kind, 5))
    assert example["s1_time"] == -1 and example["s2_time"] == 0


@pytest.mark.parametrize("kind, label, message", [
    ("pixel_classes", np.full((SIZE, SIZE), 2, np.uint8), r"label value is 2, expected 0..1 or 255 \(ignored\)"),
    ("change", np.zeros((SIZE, 3), np.uint8), r"label is uint8\[12, 3\], expected uint8\[12, 12\]"),
    ("image_class", np.array(300, np.int32), r"label value is 300, expected 0..299"),
    ("image_class", np.array(-1, np.int32), r"label value is -1, expected 0..299"),
    ("image_class", np.zeros((SIZE, SIZE), np.uint8), r"label is uint8\[12, 12\], expected int32\[\]"),
    ("image_classes", np.array([0, 1], np.uint8), r"label is uint8\[2\], expected uint8\[3\]"),
    ("image_classes", np.array([0, 1, 255], np.uint8), r"label value is 255, expected 0..1"),
    ("number", np.array(np.nan, np.float32), "label is nan, expected a finite number"),
])
def test_a_label_that_does_not_fit_is_named(kind, label, message):
    import re

    what, seen, expected = SPECS[kind].fault(label, SIZE)
    assert re.fullmatch(message, f"{what} is {seen}, expected {expected}")
    assert SPECS[kind].fault(label_of(kind, 1), SIZE) is None


def test_impossible_label_specs_are_refused():
    for arguments, message in ((("pixels",), "label kind 'pixels' is unknown; valid kinds: pixel_classes, "),
                               (("number", ("a",)), "give a number no classes"),
                               (("image_class", ("a", "a")), "hold a name twice")):
        with pytest.raises(UserError, match=message):
            LabelSpec(*arguments)


def test_a_manifest_from_before_labels_had_a_spec_means_classes_of_pixels(toy, tmp_path):
    toy({"s2": "s2_l2a"}, "pixel_classes")
    path = build(tmp_path).data_path / "manifest.json"
    values = json.loads(path.read_text())
    assert values["classes"] == ["a", "b"] and values.pop("label") == {"kind": "pixel_classes", "unit": ""}
    path.write_text(json.dumps(values))
    (path.parent / "SHA256SUMS").unlink()  # there were none then
    assert load_info(path.parent).label == SPECS["pixel_classes"]
    values["tensors"].pop("label")
    assert DatasetInfo.from_json(values | {"classes": []}).label is None


def test_data_sets_of_different_kinds_of_label_do_not_mix():
    one, other = (shapes(SIZE, ["s2_l2a"], 2, kind).info for kind in ("pixel_classes", "change"))
    with pytest.raises(UserError, match="'x' has labels of kind pixel_classes, 'y' of kind change; mix data sets of"):
        merge([one, other], ["x", "y"], ("s2", "label"))
    assert merge([one, other], ["x", "y"], ("s2",)).label is None
    assert merge([one, one], ["x", "y"], ("s2", "label")).label == one.label


def test_labels_of_the_image_are_not_cut(toy, tmp_path):
    toy({"s2": "s2_l2a"}, "image_classes")
    with pytest.raises(UserError, match="--size=6 cuts images of 12 pixels, whose label is that of the whole image"):
        make_config("toy", "tiles", size=6)
    importer = importers.load("toy")(tmp_path, "tiles", {"s2": "s2_l2a"})
    tile = importer.read(next(importer.entries()))
    assert cut(tile, SIZE) == [tile]
    with pytest.raises(UserError, match="record 'r0': its label is that of the whole image of 12x12 pixels"):
        cut(tile, 6)


def test_a_config_by_json_may_have_any_label():
    made = Config(name="x", importer="npz", sensors={"s1": "s1_grd"}, size=8, label={"kind": "number", "unit": "m"})
    assert made.label_spec == LabelSpec("number", unit="m") and made.facts()["classes"] == []
    made = Config(name="x", importer="npz", sensors={"s1": "s1_grd"}, size=8, classes=["a", "b"])
    assert made.label_spec == LabelSpec("pixel_classes", ("a", "b"))
    with pytest.raises(UserError, match="labels='mine' without a label; give 'water_weak', or the kind"):
        Config(name="x", importer="npz", sensors={"s1": "s1_grd"}, size=8, labels="mine")


@pytest.mark.parametrize("kind, expected", [
    ("image_class", ["label: one of 300 classes for each of 9 records", "  290 class290"]),
    ("image_classes", ["label: any number of 3 classes for each of 9 records",
                       f"  0 {'a':30s}        4  44.44% {'#' * 18}", f"  1 {'b':30s}        3  33.33% {'#' * 13}",
                       f"  2 {'c':30s}        0   0.00% "]),
    ("number", ["label: number in t/ha of 9 records; min 0, mean 2, max 4"]),
])
def test_inspect_counts_labels_of_images(toy, tmp_path, kind, expected):
    toy({"s2": "s2_l2a"}, kind)
    lines = list(inspection.inspect(build(tmp_path).data_path, "", 512, tmp_path / "sheet.png"))
    for text in expected:
        assert any(line.startswith(text) for line in lines), text
    assert lines[-1].endswith("(s2 (s2_l2a), top to bottom)")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 192 + 8 + 21


# Sensors

def test_a_landsat_sensor_goes_from_the_build_to_picture_and_card(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(sensors, "SENSORS", SENSORS | {"l8_sr": LANDSAT})
    toy({"s1": "s1_grd", "s2": "l8_sr"})
    folder = build(tmp_path, "pairs").data_path
    spec = load_info(folder).sensors["s2"]
    assert spec == LANDSAT
    list(inspection.inspect(folder, "", 512, tmp_path / "sheet.png"))
    record = Records(folder, "train", ("s1", "s2")).record(0)
    shown = pictures.image_to_rgb(record["s2"], spec)
    by_hand = pictures.image_to_rgb(record["s2"][..., [3, 2, 1]], SENSORS["ombria_s2"])
    assert shown[5, 5].tolist() == by_hand[5, 5].tolist() != shown[5, 5, ::-1].tolist()
    text = card_of(spec)
    assert "tags: [remote-sensing, landsat, contrastive, optical]" in text and LANDSAT.notes in text
    assert "baseline" not in text and "sentinel" not in text
    # A code base without the sensor can still read its data.
    monkeypatch.setattr(sensors, "SENSORS", SENSORS)
    stranger = load_info(folder).sensors["s2"]
    assert (stranger.bands, stranger.rgb, stranger.feature) == (LANDSAT.bands, (), "s2")
    assert "From a value in surface reflectance (C2 L2), use `stored = 36363.6 * value`." in card_of(stranger)


def card_of(spec):
    from dual_encoder.export import card

    model = types.SimpleNamespace(
        sensors={spec.feature: spec}, config={"task": "pretrain"}, step=1, code_version="0",
        dataset={"name": "n", "config": "c", "version": "v", "fingerprint": "f", "source": {}})
    source = types.SimpleNamespace(model=model, sensor=spec.feature, image_size=SIZE)
    content = types.SimpleNamespace(
        title="", about="", library="timm", inputs={spec.feature: spec}, input="normalised", layout="", sizes="",
        files={}, outputs={}, loading="")
    return card.write(source, content, None, {"versions": {}})


def test_a_third_sensor_stands_next_to_the_two(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sensors, "SENSORS", SENSORS | {"dem": HEIGHT})
    toy({"s1": "s1_grd", "s2": "s2_l2a", "s3": "dem"})
    made = build(tmp_path, "pairs")
    assert "longest time between S1, S2, S3" in capsys.readouterr().out
    info = load_info(made.data_path)
    assert info.sensors["s3"] == HEIGHT and info.tensors["s3"].shape == (SIZE, SIZE, 1)
    record = Records(made.data_path, "train", ("s1", "s2", "s3")).record(4)
    assert (record["s1_time"], record["s2_time"], record["s3_time"]) == (0, 4 * DAY, 8 * DAY)
    assert BatchReader(Records(made.data_path, "train", ("s2", "s3")))([1, 0])["s3"].shape == (2, SIZE, SIZE, 1)
    lines = list(inspection.inspect(made.data_path, "", 512, tmp_path / "sheet.png"))
    assert any(line.startswith("s3: dem, int16[12, 12, 1], stored x 1 = m") for line in lines)
    assert set(shapes(SIZE, ["s1_grd", "s2_l2a", "dem"], 0).info.tensors) == {"s1", "s2", "s3"}


def test_the_stored_form_of_a_sensor_does_not_change_with_facts_for_people():
    for spec in SENSORS.values():
        stored = spec.to_json()
        assert not {"rgb", "notes", "tags", "feature"} & set(stored), "as manifests and runs stored it before"
        assert SensorSpec.from_json(json.loads(json.dumps(stored))) == spec
    assert SensorSpec.from_json(LANDSAT.to_json()) == LANDSAT  # SENSORS lacks it: all is stored
    fewer = LANDSAT.to_json() | {"name": "s2_l2a", "rgb": []}
    fewer.pop("notes")
    assert SensorSpec.from_json(fewer).notes == ""  # other bands than the s2_l2a of today
    with pytest.raises(UserError, match="sensor 'l8_sr': rgb is B4 B3, expected three of B1 B2"):
        SensorSpec.from_json(LANDSAT.to_json() | {"rgb": ["B4", "B3"]})


def test_pictures_of_few_bands_are_grey():
    two = SensorSpec("x", "optical", ("a", "b"), "u", 1.0, "uint16", None, (0.0,) * 2, (1.0,) * 2, "")
    shown = pictures.image_to_rgb(np.arange(32, dtype=np.uint16).reshape(4, 4, 2), two)
    assert shown.shape == (4, 4, 3) and (shown[..., 0] == shown[..., 2]).all() and shown.max() == 254
