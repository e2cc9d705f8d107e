"""Temperatures, calibration errors, and intervals of areas; the command `calibrate`, and what `predict` makes of it."""

import contextlib
import csv
import io
import json
import math
import re
import shutil
from unittest import mock

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from scipy import special

from dual_encoder import calibrate
from dual_encoder.config import to_dict
from dual_encoder.errors import UserError
from dual_encoder.evaluation.area_errors import AreaErrors, radii_for, shares
from dual_encoder.evaluation.calibration import BINS, reliability, temperature
from dual_encoder.evaluation.conformal import interval, places_needed, radius, scores, spread
from dual_encoder.export import __main__ as export
from dual_encoder.export import npz
from dual_encoder.inference.segmenter import load_segmentation
from dual_encoder.predict import __main__ as predict
from dual_encoder.predict import hectares
from dual_encoder.report.page import write_report
from dual_encoder.state import TrainState
from dual_encoder.workdir import calibration as file
from dual_encoder.workdir import folder as workdir_folder
from dual_encoder.workdir.checkpoint import Checkpoints
from tests import commands
from tests.data_prep.geotiff_writing import PLACE, tif
from tests.test_predict import GRIDS, SMALL, scene, untrained

EXACT = 1e-9  # sums of float64


def surer_than_right(pixels=4000, classes=3, factor=2.5, seed=0):
    """Logits whose softmax is right after a division by `factor`, float32, and labels drawn from it."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (pixels, classes))
    label = (special.softmax(logits, axis=1).cumsum(axis=1) > random.random((pixels, 1))).argmax(axis=1)
    return (factor * logits).astype(np.float32), label.astype(np.uint8)


@pytest.mark.quick
def test_the_temperature_is_the_best_of_a_dense_grid():
    logits, label = surer_than_right()
    found = temperature(logits, label)
    grid = np.geomspace(0.5, 10, 1001)  # steps of 0.3 %
    loss = [-special.log_softmax(logits / t, axis=1)[np.arange(len(label)), label].mean() for t in grid]
    assert found == pytest.approx(grid[np.argmin(loss)], rel=0.005)
    assert found == pytest.approx(2.5, rel=0.1)
    after = reliability(logits / np.float32(found), label)
    assert after.error < 0.3 * reliability(logits, label).error
    assert after.nll == pytest.approx(min(loss), abs=1e-5)


@pytest.mark.quick
def test_the_calibration_error_is_that_of_a_loop_over_pixels():
    logits, label = surer_than_right(600)
    found, probability = reliability(logits, label), special.softmax(logits.astype(np.float64), axis=1)
    inside = [[] for _ in range(BINS)]
    for row, of in zip(probability, label, strict=True):
        at = next(bin for bin in range(BINS) if row.max() <= (bin + 1) / BINS or bin == BINS - 1)
        inside[at].append((row.max(), row.argmax() == of))
    error = sum(len(of) / 600 * abs(np.mean([sure for sure, _ in of]) - np.mean([right for _, right in of]))
                for of in inside if of)
    assert found.counts == tuple(map(len, inside)) and found.error == pytest.approx(error, abs=1e-6)  # float32
    assert found.nll == pytest.approx(-np.log(probability[np.arange(600), label]).mean(), abs=1e-6)


@pytest.mark.quick
def test_the_radius_is_the_quantile_of_split_conformal_prediction():
    random = np.random.default_rng(0)
    for places in (9, 10, 19, 57):
        values = random.random(places)
        for level in (0.8, 0.9, 0.95):
            rank = math.ceil((places + 1) * level - EXACT)
            expected = np.sort(values)[rank - 1] if rank <= places else math.inf
            assert radius(values, [str(at) for at in range(places)], level) == expected
            assert (places >= places_needed(level)) == (expected < math.inf)
    # An image more often in the list changes nothing, if it is of the same place.
    twice = np.append(values, values[:5])
    names = [str(at) for at in range(57)]
    assert radius(twice, [*names, *names[:5]], 0.9) == radius(values, names, 0.9)
    assert radius(np.array([]), [], 0.9) == math.inf


@pytest.mark.quick
def test_intervals_hold_as_often_as_they_say_on_new_places():
    """Places with 1 to 6 areas each, whose errors are alike: areas as they come would promise too much."""
    random, held, rounds, places = np.random.default_rng(1), 0, 1500, 19
    for _ in range(rounds):
        sizes = random.integers(1, 7, places + 1)
        centre = np.repeat(random.exponential(1, places + 1) * sizes ** 0.5, sizes)
        values, of = centre + 0.1 * random.random(len(centre)), np.repeat(np.arange(places + 1), sizes)
        limit = radius(values[of < places], of[of < places].astype(str).tolist(), 0.9)
        held += np.mean(values[of == places] <= limit)
    deviation = math.sqrt(0.09 / rounds)
    assert 0.9 - 4 * deviation < held / rounds < 0.9 + 1 / (places + 1) + 4 * deviation


@pytest.mark.quick
def test_an_interval_holds_the_shares_with_smaller_errors():
    share, limit = 0.3, 0.2
    low, high = interval(share, limit)
    true = np.linspace(0, 1, 1001)
    inside = (true >= low) & (true <= high)
    np.testing.assert_array_equal(inside, scores(np.full(1001, share), true) <= limit)
    assert interval(0.0, 1.0) == (0.0, pytest.approx(spread(np.float64(0)))) and interval(0.5, 9.0) == (0.0, 1.0)


@pytest.mark.quick
def test_shares_of_squares_are_those_of_a_loop():
    random = np.random.default_rng(0)
    label, mapped = random.integers(0, 3, (2, 40, 50)).astype(np.uint8)
    label[:16, :16] = 255
    label[3, 20:40] = 255
    label[16:28, :16] = 255  # three quarters of a square
    true, found = shares(label, mapped, 3, 16)
    expected = []
    for row in range(0, 32, 16):
        for column in range(0, 48, 16):
            y, c = (image[row:row + 16, column:column + 16] for image in (label, mapped))
            if (y != 255).mean() >= 0.5:
                expected.append([[np.mean(image[y != 255] == number) for number in range(3)] for image in (y, c)])
    np.testing.assert_allclose(np.stack([true, found], axis=1), expected, atol=EXACT)
    assert len(true) == 4


@pytest.mark.quick
def test_an_area_takes_the_errors_of_the_largest_squares_that_fit():
    sizes = [AreaErrors(64, 9, 9, ((1.0,), (2.0,), ())), AreaErrors(32, 9, 36, ((3.0,), (4.0,), ()))]
    assert [radii_for(sizes, side, 0.9) for side in (500, 64, 63, 32, 31)] == [(2.0,), (2.0,), (4.0,), (4.0,), ()]
    assert radii_for(sizes, 64, 0.95) == ()


@pytest.mark.parametrize("grid", ["utm", "rotated", "degrees"])
def test_the_content_of_a_polygon_is_that_of_its_pixels(tmp_path, grid):
    transform, crs = GRIDS[grid]
    values = np.random.default_rng(0).choice(np.array([0, 1, 2, 255], np.uint8), (1, 90, 70))
    tif(tmp_path / "map.tif", values, transform, crs)
    polygon = shapely.Polygon([transform @ at for at in ((-5, 10.2), (30.7, 3.1), (50.3, 80.2), (12, 60))])
    whole, part, outside = hectares.contents(tmp_path / "map.tif", 3, [
        None, polygon, shapely.transform(polygon, lambda points: points + 1e6 * abs(transform.a))])
    columns, rows = np.meshgrid(np.arange(70) + 0.5, np.arange(90) + 0.5)
    inside = shapely.contains_xy(polygon, *(transform @ (columns, rows)))
    of_pixel = whole.classes.sum() / (values != 255).sum()  # pixels of one map differ by less than 0.1 % here
    expected = [(values[0][inside] == number).sum() * of_pixel for number in (0, 1, 2, 255)]
    np.testing.assert_allclose([*part.classes, part.no_data], expected, rtol=1e-3)
    assert part.pixels == (values[0][inside] != 255).sum() and outside.pixels == 0
    np.testing.assert_allclose(whole.classes, hectares.by_class(tmp_path / "map.tif", 3))


@pytest.fixture(scope="module")
def run(write_dataset, tmp_path_factory):
    """A segmentation run of radar that has learnt nothing, and its data set, whose split 'test' has 12 places."""
    folder, data = tmp_path_factory.mktemp("flood") / "run", write_dataset(labels=True, test=12, size=40)
    config, task, records, variables = untrained(data)
    facts = workdir_folder.facts(to_dict(config), records.info, task.sensors)
    saved = Checkpoints(folder, 2, facts)
    for step in (1, 2):
        saved.save(step, TrainState(np.int32(step), **variables, opt_state=(), average={}))
        variables["params"]["classifier"]["kernel"] *= 2
    saved.close()
    workdir_folder.record_run(folder, facts, 0)
    return folder


def command(module, *arguments):
    """Runs a command in this process; returns what it prints, or its error."""
    said = io.StringIO()
    with mock.patch("sys.argv", ["command", *map(str, arguments)]), contextlib.redirect_stdout(said), \
            contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        module.main()
    return said.getvalue()


@pytest.fixture(scope="module")
def calibrated(run, tmp_path_factory):
    """A copy of the run with a calibration of its newest checkpoint, and what the command printed."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(run, folder)
    said = command(calibrate, f"--workdir={folder}", "--split=test")
    assert "error: " not in said, said
    return folder, said


def test_the_command_writes_what_it_measured(calibrated):
    folder, said = calibrated
    found = file.read(folder)
    assert (found.step, found.images, found.classes, found.records) == (2, ("s1",), ("dry", "wet"), 12)
    assert found.pixels == sum(found.before.counts) == sum(found.after.counts) == 12 * 40 * 40
    assert found.after.nll < found.before.nll and found.after.error < found.before.error
    assert [(area.side, area.places, area.squares) for area in found.areas] == [(40, 12, 12), (20, 12, 48)]
    assert all(len(area.radii[level]) == 2 * (level < 2) for area in found.areas for level in range(3))
    assert f"temperature {found.temperature:.3f}: expected calibration error {found.before.error:.4f} -> " in said
    assert "95%: needs 19 places" in said and "12 squares of 40 px in 12 places" in said
    page = (folder / "report.html").read_text()
    assert "<h2>Calibration</h2>" in page and f"{found.before.error:.4f}" in page and f"{found.after.error:.4f}" in page
    assert page.count("<img") >= 3  # the reliability diagram, and the shares of each class


def test_calibrate_refuses_in_one_line(run, tmp_path):
    done = commands.run("-m", "dual_encoder", "calibrate", f"--workdir={run}", "--records=0")
    assert (done.returncode, done.stderr) == (2, "error: --records is 0; give 1 or more\n")
    for arguments, message in (
            (["--split=train"], "has learnt from split 'train', where it is surer than it may be; give another one"),
            ([], "has no split 'validation'"), (["--split=test", "--step=7"], "has no checkpoint of step 7"),
            (["--split=test", f"--data={tmp_path}"], "manifest.json")):
        said = command(calibrate, f"--workdir={run}", *arguments)
        assert re.fullmatch(r"(compilation cache.*\n)?error: .*\n", said) and message in said, said


def make(folder, path, out, *arguments):
    return command(predict, f"--workdir={folder}", f"--s1={path}", f"--out={out}", f"--window={SMALL['window']}",
                   f"--margin={SMALL['margin']}", *arguments)


def rows_of(path):
    with open(path, newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_calibrated_map_has_the_same_classes_and_other_probabilities(run, calibrated, tmp_path):
    path, _ = scene(tmp_path)
    said = [make(folder, path, tmp_path / f"{name}.tif", "--probabilities") for name, folder in (
        ("plain", run), ("calibrated", calibrated[0]))]
    assert f"not calibrated: '{run}' has no calibration.json; python -m dual_encoder.calibrate" in said[0]
    assert "probabilities: calibrated on s1s2_pairs/synthetic/1.0.0, split 'test', temperature" in said[1]
    maps, layers, tags = [], [], []
    for name in ("plain", "calibrated"):
        with rasterio.open(tmp_path / f"{name}.tif") as opened, rasterio.open(
                tmp_path / f"{name}_probabilities.tif") as beside:
            maps.append(opened.read(1))
            layers.append(beside.read().astype(int))
            tags.append(opened.tags())
    np.testing.assert_array_equal(*maps)
    found = file.read(calibrated[0])
    assert tags[0]["CALIBRATED"] == "no" and float(tags[0]["TEMPERATURE"]) == 1
    assert tags[1]["CALIBRATED"] == f"yes, on {found.data}" and float(tags[1]["TEMPERATURE"]) == pytest.approx(
        found.temperature, rel=1e-5)
    # The odds of the two classes to the power of 1 / T; per cents are rounded.
    share = layers[0][1] / 100
    known = (maps[0] != 255) & (share > 0.02) & (share < 0.98)
    error = np.abs(layers[1][1] / 100 - special.expit(special.logit(np.clip(share, 0.01, 0.99)) / found.temperature))
    assert known.any() and error[known].max() < 0.02 and np.abs(layers[1] - layers[0])[:, known].max() > 5


def test_an_export_states_the_temperature_that_makes_the_probabilities_of_a_map(run, calibrated, tmp_path):
    values = np.random.default_rng(0).integers(-2500, -500, (1, 64, 64, 2)).astype(np.int16)
    for folder, out in ((run, tmp_path / "plain"), (calibrated[0], tmp_path / "calibrated")):
        said = command(export, f"--workdir={folder}", "--sensor=s1", "--format=npz", f"--out={out}")
        assert "error: " not in said, said
    plain, found = (json.loads((tmp_path / name / "card.json").read_text())["dual_encoder"]["calibration"]
                    for name in ("plain", "calibrated"))
    assert plain is None and "networks are usually too sure" in (tmp_path / "plain" / "README.md").read_text()
    assert f"Divide the logits by the temperature {found['temperature']:.6g} before the softmax" in (
        tmp_path / "calibrated" / "README.md").read_text()
    logits = np.asarray(npz.load(str(tmp_path / "calibrated"))({"s1": values})["logits"])
    expected = load_segmentation(calibrated[0]).predict(s1=values, units="stored")
    np.testing.assert_allclose(special.softmax(logits / found["temperature"], axis=-1), expected, atol=1e-5)
    assert found["error_after"] < found["error_before"]


def test_the_areas_of_a_map_and_of_districts_have_intervals(calibrated, tmp_path):
    path, values = scene(tmp_path)
    values[:, :30] = np.nan
    tif(path, values)
    corners = {"west": (0, 0, 60, 150), "small": (90, 90, 100, 100), "far": (500, 500, 600, 600)}
    shapes = [shapely.box(*(PLACE @ at[:2]), *(PLACE @ at[2:])) for at in corners.values()]
    layer = tmp_path / "districts.gpkg"
    pyogrio.raw.write(layer, shapely.to_wkb(np.array(shapes, object)), [np.array(list(corners), object)], ["name"],
                      geometry_type="Polygon", crs="EPSG:32632", driver="GPKG")
    said = make(calibrated[0], path, tmp_path / "map.tif", f"--areas={tmp_path / 'a.csv'}", f"--districts={layer}",
                "--level=0.8")
    rows, found = rows_of(tmp_path / "a.csv"), file.read(calibrated[0])
    assert [(row["district"], row["class"]) for row in rows] == [
        (name, of) for name in ("whole map", "west", "small") for of in ("dry", "wet")]
    assert "1 districts have no pixel with data" in said
    with rasterio.open(tmp_path / "map.tif") as opened:
        classes = opened.read(1)
    for number, row in enumerate(rows[:4]):
        part = classes if number < 2 else classes[:, :60]
        share = (part == number % 2).sum() / (part != 255).sum()
        low, high = interval(share, found.areas[0].radii[0][number % 2])
        mapped, size = float(row["mapped_ha"]), float(row["hectares"])
        np.testing.assert_allclose([size / mapped, float(row["low"]) / mapped, float(row["high"]) / mapped],
                                   [share, low, high], atol=1e-5)
        assert mapped == pytest.approx((part != 255).sum() / 100, rel=1e-3) and row["level"] == "0.8"
        assert float(row["no_data_ha"]) == pytest.approx((part == 255).sum() / 100, rel=1e-3)
    for row in rows[4:]:  # no labelled square is as small: anything is possible
        assert (float(row["low"]), row["high"]) == (0, row["mapped_ha"])
    assert f"80% interval {float(rows[1]['low']):.2f} to {float(rows[1]['high']):.2f} ha" in said
    make(calibrated[0], path, tmp_path / "map.tif", f"--areas={tmp_path / 'a.geojson'}", f"--districts={layer}")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [(one["properties"]["district"], one["properties"]["class"]) for one in features] == [
        (row["district"], row["class"]) for row in rows[2:]]
    west = features[1]["properties"]
    assert west["hectares"] == pytest.approx(float(rows[3]["hectares"]), rel=1e-5)
    assert west["low"] <= float(rows[3]["low"]) + 1e-3 and west["high"] >= float(rows[3]["high"]) - 1e-3  # 90 %


def test_permanent_water_is_taken_out_before_the_interval(calibrated, tmp_path):
    path, _ = scene(tmp_path)
    segmenter = load_segmentation(calibrated[0])
    segmenter.classes = ("dry", "flood water")
    mask = tif(tmp_path / "mask.tif", np.pad(np.ones((1, 60, 60), np.uint8), ((0, 0), (0, 90), (0, 70))))
    with mock.patch.object(predict, "load_segmentation", lambda *_: segmenter):
        make(calibrated[0], path, tmp_path / "map.tif", f"--areas={tmp_path / 'a.csv'}",
             f"--permanent-water={tmp_path / 'mask.tif'}")
    dry, wet, permanent = rows_of(tmp_path / "a.csv")
    assert mask.any() and (permanent["class"], permanent["low"], permanent["high"]) == ("permanent water", "", "")
    rest = float(dry["hectares"]) + float(wet["hectares"])
    assert 0 < float(permanent["hectares"]) == pytest.approx(float(wet["mapped_ha"]) - rest, rel=1e-3)
    low, high = interval(float(wet["hectares"]) / rest, file.read(calibrated[0]).areas[0].radii[1][1])
    np.testing.assert_allclose([float(wet["low"]), float(wet["high"])], [low * rest, high * rest], atol=1e-3)


def test_areas_without_a_fitting_calibration_are_refused_in_one_line(run, calibrated, tmp_path):
    path, _ = scene(tmp_path)
    layer = tmp_path / "districts.geojson"
    layer.write_text('{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"district": "a"}, '
                     '"geometry": {"type": "Polygon", "coordinates": [[[10,46],[11,46],[11,47],[10,46]]]}}]}')
    folder = calibrated[0]
    areas = f"--areas={tmp_path / 'a.csv'}"
    for workdir, arguments, message in (
            (run, [areas], "--areas needs the errors of the model on labelled images, and it is not calibrated: "),
            (folder, [areas, "--step=1"], "is of another checkpoint (step 2, digest "),
            (folder, [areas, "--level=0.95"], "an interval of 95% needs labelled images of 19 places, the calibration "
                                              "has 12 "),
            (folder, [areas, f"--districts={layer}"], "has no property 'name', it has district; name the one with the "
                                                      "names by --district-key"),
            (folder, [f"--areas={tmp_path / 'a.txt'}"], "ends in no .csv, .gpkg"),
            (folder, [f"--areas={tmp_path / 'a.gpkg'}"], "there is no --districts=FILE"),
            (folder, [f"--districts={layer}"], "give --areas=FILE.csv")):
        said = make(workdir, path, tmp_path / "map.tif", *arguments)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and message in errors[0], said
        assert not (tmp_path / "map.tif").exists() and not (tmp_path / "a.csv").exists()


def test_a_damaged_calibration_is_named_and_not_used(calibrated, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(calibrated[0], folder)
    text = (folder / file.NAME).read_text()
    (folder / file.NAME).write_text(text.replace('"temperature": ', '"temperature": 1'))
    with pytest.raises(UserError, match="does not match its digest .*; run python -m dual_encoder.calibrate again"):
        file.read(folder)
    segmenter = load_segmentation(folder)
    assert segmenter.temperature == 1 and "does not match its digest" in segmenter.not_calibrated
    assert "the calibration could not be shown" in write_report(folder).read_text()
    (folder / file.NAME).write_text(text[:100])
    assert "is damaged" in load_segmentation(folder).not_calibrated
