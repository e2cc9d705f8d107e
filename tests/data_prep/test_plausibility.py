"""Values that are not those of a sensor: every kind is found on real images, and no real image is doubted."""

import dataclasses
import json

import numpy as np
import pytest
import rasterio

from data_prep import importers
from data_prep.build.doubts import Doubts
from data_prep.importers import Entry
from dual_encoder.data.manifest import load_info
from dual_encoder.errors import UserError
from dual_encoder.imagery.plausibility import RULES, check_names, judge, sample
from dual_encoder.imagery.sensors import SENSORS

S1, S2 = SENSORS["s1_grd"], SENSORS["s2_l2a"]


@pytest.fixture(scope="module")
def real(real_data):
    """(source, spec, stored image) of every real sample in a physical unit."""
    found = []
    with np.load(real_data / "bigearthnet" / "pairs.npz") as file:
        for s1, s2 in zip(file["s1_cdb"], file["s2"], strict=True):
            found += [("bigearthnet", S1, np.moveaxis(s1, 0, -1)), ("bigearthnet", S2, np.moveaxis(s2, 0, -1))]
    with np.load(real_data / "worldcereal" / "pairs.npz") as file:
        bands = tuple(file["s2_bands"].tolist())
        ten = dataclasses.replace(S2, bands=bands, mean=(1.0,) * len(bands), std=(1.0,) * len(bands))
        for s1, s2 in zip(file["s1"], file["s2"], strict=True):
            stored = np.where(np.isfinite(s1), np.rint(s1 * 100), -32768).astype(np.int16)
            found += [("worldcereal", S1, np.moveaxis(stored, 0, -1)), ("worldcereal", ten, np.moveaxis(s2, 0, -1))]
    for path in sorted((real_data / "sen12ms_cr_npz").glob("*.npz")):
        with np.load(path) as file:
            found += [("sen12ms_cr", S1, np.moveaxis(file["s1_cdb"], 0, -1)),
                      ("sen12ms_cr", SENSORS["s2_l1c"], np.moveaxis(file["s2_clear"], 0, -1))]
    for name, kind in (("sen1floods11", "tiles"), ("sen1floods11", "pairs"), ("sen12ms_cr", "pairs"),
                       ("ssl4eo_s12", "pairs"), ("terramesh", "pairs"), ("ombria", "pairs")):
        layout = importers.load(name).layout(kind, real_data / name)
        sensors = {feature: layout.sensors[feature][0] for feature in layout.default}
        importer = importers.open_raw(name, real_data / name, kind, sensors)
        for entry in [item for item in importer.entries() if isinstance(item, Entry)][::1 if name != "ombria" else 40]:
            try:
                record = importer.read(entry)
            except UserError:
                continue  # an unlabelled chip, say
            found += [(name, SENSORS[sensors[feature]], image) for feature, image in record.images.items()]
    return found


def outcomes(image, spec, removed=0):
    """{rule: is it broken} for the rules that can judge this image."""
    return {outcome.rule: bool(outcome.broken[0]) for outcome in judge(sample(image)[None], spec, np.array([removed]))
            if outcome.judged[0]}


def broken(image, spec, removed=0):
    return {rule for rule, is_broken in outcomes(image, spec, removed).items() if is_broken}


def test_no_real_image_breaks_a_rule(real):
    assert len(real) > 400
    assert [(source, broken(image, spec)) for source, spec, image in real if broken(image, spec)] == []


def in_db(change):
    def changed(image, spec):
        values = change(image.astype(np.float64) * spec.scale) / spec.scale
        return np.where(spec.holds_data(image)[..., None], np.clip(np.rint(values), -32767, 32767), -32768
                        ).astype(np.int16)
    return changed


def in_dn(change):
    def changed(image, spec):
        values = np.clip(change(image.astype(np.float64)), 1, 65535)
        return np.where(spec.holds_data(image)[..., None], values, 0).astype(np.uint16)
    return changed


def stretched(top):
    def change(dn):
        low, high = np.percentile(dn, (2, 98), axis=(0, 1))
        return np.clip((dn - low) / np.maximum(high - low, 1), 0, 1) * top
    return change


def bordered(image, spec):
    image = image.copy()
    image[:, :image.shape[1] // 8] = 0 if spec.modality == "sar" else 1
    return image


# What was done to the values, to which modality, the rule that must find it, and on what share of the images that it
# can judge. Sea is dark in power and in amplitude; a dark sea image of 8 bits cannot be told from a dark sea image.
KINDS = {
    "power called dB": ("sar", in_db(lambda db: 10 ** (db / 10)), "radar_scale", 1.0),
    "amplitude called dB": ("sar", in_db(lambda db: 10 ** (db / 20)), "radar_scale", 1.0),
    "digital numbers called power": ("sar", in_db(lambda db: db + 54), "radar_scale", 0.99),
    "dB times ten": ("sar", in_db(lambda db: 10 * db), "radar_scale", 1.0),
    "the sign is lost": ("sar", in_db(lambda db: -db), "radar_scale", 0.99),
    "amplitude called power": ("sar", in_db(lambda db: db / 2), "radar_amplitude", 0.85),
    "20 log10 of power": ("sar", in_db(lambda db: 2 * db), "radar_dark", 0.25),
    "bands exchanged": ("sar", lambda image, spec: image[..., ::-1], "polarisations_swapped", 0.95),
    "a border of one value": ("sar", bordered, "one_value", 1.0),
    "a border of one optical value": ("optical", bordered, "one_value", 1.0),
    "still with +1000": ("optical", in_dn(lambda dn: dn + 1000), "offset_present", 0.99),
    "stretched to 8 bit": ("optical", in_dn(stretched(255)), "reflectance_scale", 0.95),
    "stretched to 16 bit": ("optical", in_dn(stretched(65535)), "reflectance_scale", 0.95),
    "scaled to 8 bit": ("optical", in_dn(lambda dn: np.minimum(dn / 4000 * 255, 255)), "reflectance_scale", 0.85),
    "reflectance x 1000": ("optical", in_dn(lambda dn: dn / 10), "reflectance_scale", 0.7),
    "reflectance x 255": ("optical", in_dn(lambda dn: dn / 10000 * 255), "reflectance_scale", 0.85),
    "reflectance in 0..1": ("optical", in_dn(lambda dn: dn / 10000), "reflectance_scale", 1.0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_found_on_real_images(real, kind):
    modality, change, rule, least = KINDS[kind]
    judged = found = 0
    for _, spec, image in real:
        if spec.modality == modality and spec.dtype != "uint8" and len(spec.bands) > 1:
            seen = outcomes(change(image, spec), spec)
            judged += rule in seen
            found += seen.get(rule, False)
    assert judged > 100
    assert found >= least * judged, (found, judged)


def test_a_subtraction_from_images_without_the_offset_is_found(real):
    judged = found = 0
    for _, spec, image in real:
        if spec.modality == "optical" and spec.dtype != "uint8":
            crushed = in_dn(lambda dn: dn - 1000)(image, spec)
            judged, found = judged + 1, found + bool(broken(crushed, spec, 1000))
    assert found > 0.8 * judged


def test_one_band_on_another_scale_is_found(real):
    found = total = 0
    for source, spec, image in real:
        if spec.modality == "optical" and spec.dtype != "uint8" and source != "bigearthnet":  # there a third is sea
            image = image.copy()
            image[..., spec.bands.index("B04")] = np.clip(image[..., spec.bands.index("B04")] / 4000 * 255, 1, 255)
            total, found = total + 1, found + ("band_scale" in broken(image, spec))
    assert found > 0.8 * total


def land(size=64, seed=0):
    """A synthetic image of vegetation: the levels of S2's bands, with texture."""
    rng = np.random.default_rng(seed)
    level = np.array([300, 350, 600, 450, 900, 2200, 2700, 2900, 3000, 3100, 1700, 900])
    return np.clip(level + rng.normal(0, 60, (size, size, 12)), 1, None).astype(np.uint16)


def flat(levels, size=64, noise=30):
    rng = np.random.default_rng(0)
    return np.clip(np.array(levels) + rng.normal(0, noise, (size, size, 12)), 1, None).astype(np.uint16)


@pytest.mark.parametrize("name, image", [
    ("thick cloud", flat([6500, 6400, 6300, 6400, 6500, 6600, 6700, 6700, 6800, 6500, 4200, 3300], noise=200)),
    ("snow", flat([9000, 9100, 9000, 8900, 8800, 8700, 8600, 8500, 8400, 8300, 1100, 900], noise=200)),
    ("desert", flat([1300, 1700, 2600, 3700, 4000, 4200, 4300, 4400, 4500, 4400, 5400, 4900], noise=100)),
    ("open sea", flat([220, 200, 120, 40, 30, 20, 20, 15, 15, 5, 3, 3], noise=8)),
    ("hazy sea", flat([251, 240, 225, 205, 200, 190, 190, 185, 180, 160, 150, 140], noise=5)),
    ("burnt land", flat([400, 420, 450, 500, 560, 700, 800, 850, 950, 900, 1500, 1400])),
    ("dark conifers", flat([180, 150, 250, 160, 420, 1300, 1600, 1700, 1750, 1800, 700, 330])),
])
def test_extreme_surfaces_are_not_doubted(name, image):
    assert broken(image, S2) == set()


def test_many_images_at_once_are_judged_as_one_by_one():
    rng = np.random.default_rng(0)
    images = [land(seed=seed) for seed in range(12)]
    images[2] += 1000
    images[3][:, :40] = 0
    images[4][:, :62] = 0
    images[5][:, :20] = 777
    images[6][:40], images[6][40:, :10] = 0, 777
    images[7] = np.clip(images[7] // 16, 1, None)
    images[8] = rng.integers(1, 60000, images[8].shape).astype(np.uint16)
    removed = np.array([0] * 9 + [1000] * 3)
    together = judge(np.stack([sample(image) for image in images]), S2, removed)
    for number, image in enumerate(images):
        alone = outcomes(image, S2, int(removed[number]))
        assert alone == {outcome.rule: bool(outcome.broken[number]) for outcome in together if outcome.judged[number]}
        for outcome in together:
            assert not outcome.broken[number] or outcome.seen(number)


@pytest.mark.parametrize("value, rule", [((-1000, -1700), "constant"), ((0, 0), "radar_scale")])
def test_a_constant_image_only_warns_unless_its_value_is_impossible(value, rule):
    image = np.broadcast_to(np.array(value, np.int16), (32, 32, 2)).copy()
    assert broken(image, S1) == {rule}


def test_too_few_pixels_say_nothing():
    image = np.zeros((64, 64, 12), np.uint16)
    image[:4, :4] = 1
    assert outcomes(image, S2) == {}


def test_counts_over_workers_are_those_of_all():
    sensors, images = {"s2": S2}, [land(seed=i) + np.uint16(1000 * (i % 3 == 0)) for i in range(9)]
    whole, parts = Doubts(), [Doubts(), Doubts()]
    for number, image in enumerate(images):
        whole.add(f"r{number}", {"s2": image}, sensors, 0)
        parts[number > 4].add(f"r{number}", {"s2": image}, sensors, 0)
    joined = Doubts.from_json(json.loads(json.dumps(parts[0].to_json())))
    joined.merge(Doubts.from_json(json.loads(json.dumps(parts[1].to_json()))))
    assert list(joined.lines()) == list(whole.lines()) and len(list(whole.lines())) == 1
    assert "s2 offset_present: 3 of 9 images, first 'r0'" in next(whole.lines())
    assert whole.too_many(()) == ["offset_present"] and whole.too_many(("offset_present",)) == []
    assert "s2 offset_present 3 of 9 (first 'r0')" == whole.text() and Doubts().text() == "no image breaks a rule"


def test_rules_that_only_warn_never_stop():
    doubts, image = Doubts(), np.full((40, 40, 2), -900, np.int16) + np.arange(40, dtype=np.int16)[:, None, None]
    image[..., 0] += 300
    image += np.random.default_rng(0).integers(-50, 50, image.shape, np.int16)
    doubts.add("a", {"s1": image}, {"s1": S1}, 0)
    assert "radar_amplitude" in next(doubts.lines()) and doubts.too_many(()) == []


def test_only_stopping_rules_can_be_accepted():
    check_names(["offset_present"])
    with pytest.raises(UserError, match="'offset_presen' is no rule that stops a build; did you mean 'offset_present'"):
        check_names(["offset_presen"])
    with pytest.raises(UserError, match="'radar_dark' is no rule that stops a build"):
        check_names(["radar_dark"])
    assert all(rule.advice for rule in RULES.values())


def write_npz(folder, count=4, s1=None, s2=None, size=32):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    db = np.stack([rng.normal(0, 1.5, (2, size, size)) + np.array([-10, -17])[:, None, None] for _ in range(count)])
    dn = np.stack([np.moveaxis(land(size, seed), -1, 0) for seed in range(count)])
    np.savez(folder / "x.npz", id=np.array([f"r{i}" for i in range(count)]), s1_bands=np.array(S1.bands),
             s1=(s1 or (lambda v: v))(db).astype(np.float32), s2_bands=np.array(S2.bands),
             s2=(s2 or (lambda v: v))(dn).astype(np.uint16), split=np.array(["train"] * count))


@pytest.mark.parametrize("changes, rule", [
    ({"s1": lambda db: 10 ** (db / 10)}, "radar_scale"), ({"s1": lambda db: db[:, ::-1]}, "polarisations_swapped"),
    ({"s2": lambda dn: dn + 1000}, "offset_present"), ({"s2": lambda dn: dn / 4000 * 255}, "reflectance_scale"),
    ({"s2": lambda dn: np.where(np.arange(32) < 6, 9999, dn)}, "one_value")])
def test_a_build_of_arrays_stops_and_can_be_accepted(cli, tmp_path, changes, rule):
    write_npz(tmp_path / "raw", **changes)
    command = ["build", "--importer=npz", f"--raw={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    stopped = cli(*command)
    assert stopped.returncode == 2 and stopped.stderr.count("\n") == 1
    assert f" {rule}: 4 of 4 images, first 'r0': " in stopped.stderr and f"--accept={rule}" in stopped.stderr
    assert not (tmp_path / "data/s1s2_pairs/npz/1.0.0").exists()
    done = cli(*command, f"--accept={rule}")
    assert done.returncode == 0 and f"{rule}: 4 of 4 images" in done.stdout, done.stderr
    info = load_info(tmp_path / "data/s1s2_pairs/npz/1.0.0")
    assert f"{rule} 4 of 4 (first 'r0')" in info.source["plausibility"]
    assert f"accepted: {rule}" in info.source["plausibility"]
    shown = cli("inspect", tmp_path / "data/s1s2_pairs/npz/1.0.0")
    assert f" {rule}: 4 of 4 images" in shown.stdout


def test_after_the_data_are_mended_the_same_command_builds_them_anew(cli, tmp_path):
    write_npz(tmp_path / "raw", s2=lambda dn: dn + 1000)
    command = ["build", "--importer=npz", f"--raw={tmp_path / 'raw'}", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    assert cli(*command).returncode == 2
    write_npz(tmp_path / "raw")
    done = cli(*command)
    assert done.returncode == 0 and "implausible" not in done.stdout, done.stderr
    assert load_info(tmp_path / "data/s1s2_pairs/npz/1.0.0").source["plausibility"] == "no image breaks a rule"


def test_a_mended_description_builds_anew(cli, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    grid = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 600000, 0, -10, 5200000)}
    db = np.random.default_rng(0).normal(0, 1.5, (2, 32, 32)) + np.array([-10, -17])[:, None, None]
    for name, values in (("s1", db.astype(np.float32)), ("s2", np.moveaxis(land(32), -1, 0) + np.uint16(1000))):
        with rasterio.open(raw / f"{name}.tif", "w", driver="GTiff", count=len(values), height=32, width=32,
                           dtype=values.dtype, **grid) as file:
            file.write(values)
    (raw / "pairs.csv").write_text("s1,s2,id,split\ns1.tif,s2.tif,a,train\n")

    def describe(offset):
        (raw / "geotiff.json").write_text(json.dumps({
            "size": 32, "s1": {"bands": ["VV", "VH"], "unit": "dB", "product": "grd"},
            "s2": {"bands": list(S2.bands), "level": "l2a", "offset": offset}}))

    command = ["build", "--importer=geotiff", f"--raw={raw}", f"--data_dir={tmp_path / 'data'}", "--workers=1"]
    describe(0)
    assert "offset_present: 1 of 1 images" in cli(*command).stderr
    describe(1000)
    assert cli(*command).returncode == 0
