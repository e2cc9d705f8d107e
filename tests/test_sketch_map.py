"""A map from a few labelled polygons: the classifier, the command, and labels that are not as they should be."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rio_cogeo import cog_validate
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dual_encoder.errors import UserError
from dual_encoder.evaluation.segmentation_probe import bilinear
from dual_encoder.imagery.grid import Grid
from dual_encoder.inference.frozen_maps import load_frozen_maps
from dual_encoder.predict.windows import Windows
from dual_encoder.sketch_map.labels import draw_pixels, read_labels
from tests import commands, runs
from tests.data_prep.geotiff_writing import PLACE, S1, describe, tif
from tests.saved import save_run

SIDE = 200
LAKE = (slice(60, 140), slice(60, 140))


@pytest.fixture(scope="module")
def workdir(write_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sketch") / "run"
    save_run(runs.configure(write_dataset()), folder)
    return folder


def write_scene(folder):
    """A radar scene with a lake in the middle, 10 dB darker than the land."""
    describe(folder, size=None, s1=S1)
    values = np.random.default_rng(0).normal(0, 1, (2, SIDE, SIDE)) + np.array([-10, -17])[:, None, None]
    values[:, *LAKE] -= 10
    path = folder / "S1A_20200607T180100.tif"
    tif(path, values.astype(np.float32), PLACE, "EPSG:32632")
    return path


def square(row, column, size=12):
    """A square of pixels as a polygon of the scene's coordinate system."""
    corners = [PLACE @ corner for corner in ((column, row), (column + size, row), (column + size, row + size),
                                             (column, row + size))]
    return shapely.Polygon(corners)


def write_labels(path, polygons, key="class"):
    pyogrio.raw.write(path, shapely.to_wkb([polygon for polygon, _ in polygons]),
                      [np.array([name for _, name in polygons], object)], [key], crs="EPSG:32632",
                      geometry_type="Polygon")
    return path


FEW = [(square(70, 70), "water"), (square(110, 110), "water"), (square(10, 10), "land"), (square(170, 30), "land"),
       (square(20, 170), "land")]


def run(*arguments, code=0):
    ended = commands.run("-m", "dual_encoder.sketch_map", *arguments)
    assert ended.returncode == code, ended.stderr
    return ended.stderr if code else ended.stdout


def test_a_few_polygons_make_a_map(workdir, tmp_path):
    scene = write_scene(tmp_path)
    labels = write_labels(tmp_path / "few.gpkg", FEW)
    out = run(f"--labels={labels}", f"--s1={scene}", f"--workdir={workdir}", f"--out={tmp_path / 'map.tif'}",
              "--window=224", "--margin=64", f"--preview={tmp_path / 'map.png'}")
    assert "land: 432 pixels of 3 polygons, " in out and "water: 288 pixels of 2 polygons, " in out
    assert "right when their polygons are left out" in out and (tmp_path / "map.png").exists()
    assert cog_validate(tmp_path / "map.tif")[0]
    with rasterio.open(tmp_path / "map.tif") as file:
        classes, tags = file.read(1), file.tags()
    assert tags["CLASS_0"] == "land" and tags["CLASS_1"] == "water"
    truth = np.zeros((SIDE, SIDE), int)
    truth[LAKE] = 1
    inner = np.zeros_like(truth, bool)  # away from the shore and the border, which an untrained network blurs
    inner[16:-16, 16:-16] = True
    inner[52:148, 52:148] = False
    inner[76:124, 76:124] = True
    assert (classes == truth)[inner].mean() > 0.97


def test_the_logits_are_those_of_the_discriminant_at_each_pixel(workdir):
    """In the cells first, then to the pixels: the same as at the pixels."""
    from dual_encoder.inference.frozen_maps import MapClassifier

    frozen, random = load_frozen_maps(workdir, ("s1",)), np.random.default_rng(0)
    image = random.integers(-2500, -500, (1, 64, 64, 2)).astype(np.int16)
    rows, columns = random.integers(0, 64, (2, 300))
    features = np.concatenate([bilinear(np.asarray(level[0], np.float32), rows, columns, (64, 64))
                               for level in frozen.maps({"s1": image})], axis=1)
    classes = random.integers(0, 3, 300)
    features[:, 0] += classes
    analysis = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features, classes)
    features[:, 0] -= classes
    classifier = MapClassifier(frozen, ("a", "b", "c"), analysis.coef_.T, analysis.intercept_)
    logits = np.asarray(classifier.logits({"s1": image}))[0, rows, columns]
    expected = analysis.decision_function(features)
    # Float32 sums over some hundred channels.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_labelled_pixels_are_those_in_the_polygons(tmp_path):
    grid, windows = Grid(rasterio.CRS.from_epsg(32632), PLACE, (SIDE, SIDE)), Windows(224, 64)
    path = write_labels(tmp_path / "few.gpkg", [*FEW, (square(-6, 90), "land"), (square(70, 76), "land")])
    labels = read_labels(str(path), "class", grid)
    drawn = np.full((SIDE, SIDE), -1)
    for block in draw_pixels(labels, grid, windows):
        at = block.rows + windows.start(block.row), block.columns + windows.start(block.column)
        assert (drawn[at] == -1).all()
        drawn[at] = block.classes
    expected = np.full((SIDE, SIDE), -1)
    for row, column, number in ((70, 70, 1), (110, 110, 1), (10, 10, 0), (170, 30, 0), (20, 170, 0), (70, 76, 0)):
        expected[row:row + 12, column:column + 12] = number
    expected[:6, 90:102] = 0  # the part inside the scene
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize("polygons, key, arguments, message", [
    (FEW, "kind", [], "has no property 'class', it has kind; name the one with the classes by --class-key"),
    (FEW[:2], "class", [], "names 1 class in 'class', water; draw polygons of at least two"),
    ([*FEW[:2], (square(500, 500), "land")], "class", [], "no pixel of the scene lies in a polygon of class 'land'"),
    (FEW, "class", ["--out=map.png"], "--out=map.png is no name of a GeoTIFF"),
    (FEW, "class", ["--s1="], "there is no scene; give --s1=SCENE"),
])
def test_a_mistake_is_one_line(workdir, tmp_path, polygons, key, arguments, message):
    labels = write_labels(tmp_path / "few.gpkg", polygons, key)
    error = run(f"--labels={labels}", f"--s1={write_scene(tmp_path)}", f"--workdir={workdir}",
                f"--out={tmp_path / 'map.tif'}", *arguments, code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "map.tif").exists()


def test_a_sensor_that_the_run_lacks_is_one_line(write_dataset, tmp_path):
    save_run(runs.configure(write_dataset(), inputs="s2", loss__name="nt_xent"), tmp_path / "run")
    with pytest.raises(UserError, match="--s1 is given, but the run has s2 only"):
        load_frozen_maps(tmp_path / "run", ("s1",))
