"""`python -m dual_encoder.search`: the exact nearest images, by any query, as text, GeoJSON, pictures and a page."""

import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from PIL import Image

import dual_encoder
from dual_encoder.embed import places, table
from dual_encoder.embed.sources import DataSet
from dual_encoder.embed.write import Job, embed
from dual_encoder.errors import UserError
from dual_encoder.imagery import gdal, pictures
from dual_encoder.search import __main__ as command
from dual_encoder.search import nearest as nearest_file
from dual_encoder.search import output, page, query
from dual_encoder.search.index import Index
from dual_encoder.search.nearest import nearest
from dual_encoder.search.projection import project
from dual_encoder.storage import sums
from tests import runs, saved

pytestmark = pytest.mark.quick

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=9, test=5, labels="image_class")


@pytest.fixture(scope="module")
def encoder(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    saved.save_run(runs.configure(folder), workdir)
    found = dual_encoder.load(workdir)
    found.workdir = str(workdir)
    return found


@pytest.fixture(scope="module")
def embedded(folder, encoder, tmp_path_factory):
    """A folder of embeddings whose records lie on a line to the north-east, apart from one."""
    out = tmp_path_factory.mktemp("vectors")
    source = DataSet(folder, encoder.sensors)
    items = list(source.items(0, len(source)))
    known = {item.entry: places.point(item.entry, 170 + item.entry) for item in items if item.entry != 4}
    placed = [dataclasses.replace(item, geometry=known.get(item.entry)) for item in items]
    source.items = lambda start, stop: placed[start:stop]
    embed(Job(encoder, encoder.workdir, source, "projected", "float32", 5, 4, "embed"), out)
    return out


@pytest.fixture(scope="module")
def index(embedded):
    return Index(embedded)


@pytest.mark.parametrize("count", [1, 7, 300, 2000])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_nearest_are_exact(monkeypatch, count, queries):
    monkeypatch.setattr(nearest_file, "_BLOCK", 256)
    rng = np.random.default_rng(0)
    # Small integers: all products are exact, and many are equal.
    matrix, asked = (rng.integers(-2, 3, (n, 6)).astype(np.float32) for n in (1000, queries))
    rows, cosines = nearest(matrix, asked, count)
    products = asked @ matrix.T
    expected = np.argsort(-products, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(cosines, np.take_along_axis(products, expected, axis=1))


def test_the_index_is_made_once_and_of_these_tables(embedded, index, tmp_path, capsys):
    stored = np.concatenate([table.read_vectors(path)[0] for path in sorted(embedded.glob("*.parquet"))])
    for sensor, first in (("s1", 0), ("s2", 1)):
        matrix = index.matrices[sensor]
        units = stored[first::2] / np.linalg.norm(stored[first::2], axis=1, keepdims=True)
        np.testing.assert_allclose(matrix, units, rtol=1e-6)
        assert isinstance(matrix, np.memmap) and index.rows[sensor].tolist() == list(range(first, 28, 2))
    copy = tmp_path / "copy"
    shutil.copytree(embedded, copy)
    capsys.readouterr()
    Index(copy)
    assert not capsys.readouterr().out
    digests = sums.of_text((copy / sums.NAME).read_bytes())
    (copy / sums.NAME).write_bytes(sums.to_text(digests | {"README.md": "0" * 64}))
    Index(copy)
    assert "index: 14 vectors of s1, 14 vectors of s2" in capsys.readouterr().out
    assert len(list((copy / "index").iterdir())) == 1


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / sums.NAME).unlink(), "holds no SHA256SUMS: it is no folder of .*, or not complete"),
    (lambda folder: (folder / "part-00001-of-00003.parquet").write_bytes(b"PAR1"), "does not match its digest"),
    (lambda folder: (folder / sums.NAME).write_text("x"), "is damaged"),
])
def test_a_folder_that_is_not_whole_is_one_line(embedded, tmp_path, change, message):
    copy = tmp_path / "copy"
    shutil.copytree(embedded, copy, ignore=shutil.ignore_patterns("index"))
    change(copy)
    with pytest.raises(UserError, match=message):
        Index(copy)
    assert not list(copy.glob("index/[0-9a-f]*"))


def test_answers_are_those_of_the_vectors(index):
    asked = query.by_id(index, "train003")
    assert (asked.sensor, asked.row) == ("s1", 6)
    np.testing.assert_array_equal(asked.vector, index.matrices["s1"][3])
    for sensor, kept in (("s1", [n for n in range(14) if n != 3]), ("s2", list(range(14)))):
        found = query.answers(index, asked, 4, sensor)
        cosines = np.asarray(index.matrices[sensor], np.float64) @ asked.vector
        best = sorted(kept, key=lambda number: -cosines[number])[:4]
        assert [answer.row for answer in found] == index.rows[sensor][best].tolist()
        # A float32 sum of 8 products of at most 1, each rounded by 2^-24.
        np.testing.assert_allclose([answer.cosine for answer in found], cosines[best], rtol=0, atol=1e-6)
        assert all(answer.facts == index.facts(answer.row) and answer.facts["sensor"] == sensor for answer in found)


def test_a_place_finds_the_image_around_it(index):
    assert query.by_place(index, 6.2, 176.1).title == "train006 (s1)"
    assert query.by_place(index, 13, -177.2, "s2").title == "test004 (s2)"  # 170 + 13 degrees, across the antimeridian
    with pytest.raises(UserError, match="no sensor 's3'"):
        query.by_place(index, 0, 0, "s3")


def test_distances_are_angles_on_the_sphere():
    places = np.random.default_rng(0).uniform((-90, -180), (90, 180), (50, 2))
    lat, lon = np.radians(places).T
    on_sphere = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    for place, here in zip(places[:5], on_sphere, strict=False):
        angles = np.arccos(np.clip(on_sphere @ here, -1, 1))  # of a small angle only half of the digits are left
        np.testing.assert_allclose(query._distance(places, *place), angles, atol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_an_image_file_finds_itself(index, folder, encoder, tmp_path, dtype):
    item = list(DataSet(folder, encoder.sensors).items(5, 6))[0]
    values = np.moveaxis(item.images["s1"], -1, 0)
    with gdal.load().open(tmp_path / "s1.tif", "w", driver="GTiff", height=40, width=40, count=2, dtype=dtype,
                          crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6)) as file:
        file.write(values if dtype == "int16" else (values * 0.01).astype(np.float32))
    asked = query.by_image(index, "s1", tmp_path / "s1.tif")
    best = query.answers(index, asked, 1)[0]
    assert best.facts["id"] == "train005" and best.cosine == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(asked.image, item.images["s1"])


def test_another_run_is_refused(index, folder, tmp_path):
    saved.save_run(runs.configure(folder, projection__dim=4), tmp_path)
    with pytest.raises(UserError, match="is not the run that made the index"):
        query.by_image(index, "s1", "image.tif", str(tmp_path))


def test_pooled_vectors_of_two_sensors_are_not_compared(folder, encoder, tmp_path):
    embed(Job(encoder, encoder.workdir, DataSet(folder, encoder.sensors), "pooled", "int8", 100, 8, ""), tmp_path)
    index = Index(tmp_path)
    asked = query.by_id(index, "train000", "s2")
    assert query.answers(index, asked, 2)[0].facts["sensor"] == "s2"
    with pytest.raises(UserError, match="holds pooled vectors, which cannot compare s2 with s1"):
        query.answers(index, asked, 2, "s1")
    near = page.content(index, None, 100)
    assert all(near["points"][other]["sensor"] == point["sensor"] for point in near["points"]
               for other, _ in point["near"])


def run(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of the command in this process."""
    monkeypatch.setattr(sys, "argv", ["search", *map(str, arguments)])
    code = 0
    try:
        command.main()
    except SystemExit as error:
        code = error.code
    return code, *capsys.readouterr()


def test_the_command_writes_text_geojson_and_pictures(embedded, folder, tmp_path, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, f"--index={embedded}", "--id=train004", "--sensor=s2", "--top=7",
                           f"--geojson={tmp_path / 'a.geojson'}", f"--sheet={tmp_path / 'a.png'}")
    rows = printed.splitlines()
    assert code == 0 and rows[0] == "query: train004 (s1); s2 images"
    assert rows[1].split() == ["rank", "cosine", "sensor", "time", "latitude", "longitude", "label", "id"]
    assert len(rows) == 9 and rows[2].startswith("1     ") and "2017-07-14 02:40" in rows[2]
    collection = json.loads((tmp_path / "a.geojson").read_text())
    assert [one["properties"]["rank"] for one in collection["features"]] == list(range(1, 8))
    for feature, row in zip(collection["features"], rows[2:], strict=True):
        assert feature["properties"]["id"] == row.split()[-1] and feature["properties"]["sensor"] == "s2"
        unknown = feature["properties"]["id"] == "train004"
        assert feature["geometry"] is None if unknown else feature["geometry"]["type"] == "Point"
    with Image.open(tmp_path / "a.png") as sheet:  # the query and seven answers, six in a row
        assert sheet.size == (6 * 164 + 4, 2 * 182 + 4)
        index = Index(embedded)
        shown = output.Pictures(index).of("train", 4)["s1"]
        np.testing.assert_array_equal(np.asarray(sheet)[4:164:4, 4:164:4], shown)
    np.testing.assert_array_equal(shown, pictures.image_to_rgb(
        list(DataSet(folder, output.Pictures(index)._sensors).items(4, 5))[0].images["s1"],
        output.Pictures(index)._sensors["s1"]))


def test_a_page_of_images_without_pictures_says_so(index, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(index.origin["data"], "kind", "scene")
    monkeypatch.setattr(command, "Index", lambda folder: index)
    code, printed, _ = run(monkeypatch, capsys, "--index=x", f"--html={tmp_path / 'p.html'}")
    assert code == 0 and "no pictures: pictures need a built data set, the index was made of: scene" in printed
    assert "data:image" not in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize("arguments, message", [
    ([], "nothing to search for; give --id, --at, --s1 or --s2, or --html"),
    (["--id=train099"], "the index has no image with the id 'train099'; its ids look like 'train000'"),
    (["--at=north"], "--at is 'north'; expected LAT,LON in degrees"), (["--at=91,0"], "--at is '91,0'"),
    (["--id=train000", "--sensor=s3"], "the index has no sensor 's3'; "), (["--id=train000", "--top=0"], "--top is 0"),
    (["--s2=none.tif"], "'none.tif' is missing"),
    (["--id=train000", "--sheet=x.png", "--data=none"], "'none' does not exist"),
    (["--id=train000", "--geojson=none/x.geojson"], "cannot write 'none/x.geojson'"),
])
def test_a_mistake_gets_one_line(embedded, monkeypatch, capsys, arguments, message):
    code, _, printed = run(monkeypatch, capsys, f"--index={embedded}", *arguments)
    assert code == 2 and printed.startswith("error: ") and printed.count("\n") == 1 and message in printed


def test_the_projection_keeps_the_most_variance():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(50, 5)) * [3, 2, 0.1, 0.1, 0.1]).astype(np.float32)
    plane, note = project(vectors, "pca")
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False)
    assert f": {100 * (singular[:2] ** 2).sum() / (singular ** 2).sum():.0f} % of the variance" in note
    assert np.abs(plane).max() == pytest.approx(1) and abs(np.corrcoef(plane.T)[0, 1]) < 1e-6


def test_the_page_holds_what_it_shows_and_asks_for_nothing(embedded, tmp_path, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, f"--index={embedded}", f"--html={tmp_path / 'p.html'}", "--records=6")
    assert code == 0 and "page of 6 records" in printed
    text = (tmp_path / "p.html").read_text()
    assert "default-src 'none'" in text and not re.search(r"""(src|href)=["']?(?!data:)\w+:|https?://""", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert len(data["records"]) == 6 and len(data["points"]) == 12 and data["total"] == 28
    assert [one["id"] for one in data["records"]][::5] == ["train000", "test004"]
    assert all(one["images"].keys() == {"s1", "s2"} for one in data["records"])
    for number, point in enumerate(data["points"]):
        assert len(point["near"]) == 11 and number not in [other for other, _ in point["near"]]


def test_names_cannot_break_out_of_the_page(index, tmp_path, monkeypatch):
    hostile = "</script><script>alert(1)</script>"
    monkeypatch.setattr(page, "content", lambda *_: {"total": 1, "records": [hostile]})
    page.write(tmp_path / "p.html", index, None, 1)
    text = (tmp_path / "p.html").read_text()
    assert hostile not in text and text.count("</script>") == 2


def browse(path, width, dark, script=""):
    """The document of the page in Chromium, after `script` ran; its picture lies beside the page."""
    path = pathlib.Path(shutil.copy(path, path.with_name(f"{path.stem}-{width}-{dark}.html")))
    path.write_text(path.read_text().replace("</body>", f"<script>{script}</script></body>"))
    profile = path.with_suffix(".profile")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--virtual-time-budget=1000",
             f"--window-size={width},900", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    done = subprocess.run([CHROMIUM, *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width, dark", [(390, False), (1280, True)])
def test_the_page_works_in_a_browser(index, tmp_path, width, dark):
    page.write(tmp_path / "p.html", index, output.Pictures(index), 100)
    # The window of a headless browser is at least 500 pixels wide; nothing in the page depends on the window itself.
    # A click on a point of the projection, on a point of the map, then on the first neighbour.
    script = """
      document.body.style.width = "WIDTHpx"; window.dispatchEvent(new Event("resize"));
      function press(kind, number) {
        const canvas = at(kind), box = canvas.getBoundingClientRect();
        const mark = marks(kind, canvas.clientWidth, canvas.clientHeight).find(one => one.number === number);
        canvas.dispatchEvent(new MouseEvent("click", {clientX: box.left + mark.x, clientY: box.top + mark.y}));
        return at("details").querySelector("h2").textContent + " " + selected;
      }
      const facts = {projection: press("plane", 21), map: press("map", 4)};
      at("details").querySelector("button").click();
      facts.neighbour = [selected, points[4].near[0][0]];
      at("colour").value = "label"; at("colour").dispatchEvent(new Event("change"));
      facts.legend = at("legend").textContent;
      facts.width = [document.body.scrollWidth, Math.round(at("plane").getBoundingClientRect().width)];
      facts.paper = getComputedStyle(document.body).backgroundColor;
      facts.drawn = ["map", "plane"].map(kind => new Set(
        at(kind).getContext("2d").getImageData(0, 0, at(kind).width, at(kind).height).data).size > 20);
      document.body.dataset.facts = JSON.stringify(facts);""".replace("WIDTH", str(width))
    document = browse(tmp_path / "p.html", width, dark, script)
    facts = json.loads(re.search(r'data-facts="([^"]*)"', document)[1].replace("&quot;", '"'))
    assert facts["projection"] == "test001 21" and facts["map"] == "train002 4"
    assert facts["neighbour"][0] == facts["neighbour"][1] and facts["drawn"] == [True, True]
    assert facts["width"][0] == width and 300 < facts["width"][1] < width
    assert facts["paper"] == ("rgb(18, 23, 29)" if dark else "rgb(245, 247, 249)")
    assert sorted(re.findall("dry|wet", facts["legend"])) in (["dry", "wet"], ["dry"], ["wet"])
    assert document.count("data:image/jpeg") > 10 and "28 images as vectors" in document
