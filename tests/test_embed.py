"""`python -m dual_encoder.embed`: the vectors of the encoder in GeoParquet, resumable, with their origin."""

import json
import pathlib
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine

import dual_encoder
from data_prep.importers import Reject
from dual_encoder.data.labels import LabelSpec
from dual_encoder.data.records import BatchReader, Records
from dual_encoder.embed import __main__ as command
from dual_encoder.embed import places, table, write
from dual_encoder.embed.sources import DataSet, RawData, whole_label
from dual_encoder.embed.write import Job, embed
from dual_encoder.errors import UserError
from dual_encoder.imagery.grid import Grid
from dual_encoder.storage import sums
from tests import commands, runs, saved

pytestmark = pytest.mark.quick

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(write_dataset):
    return write_dataset(train=7, test=4, labels="image_classes")


@pytest.fixture(scope="module")
def workdir(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    saved.save_run(runs.configure(folder), path)
    return path


@pytest.fixture(scope="module")
def encoder(workdir):
    return dual_encoder.load(workdir)


def job(encoder, source, **changes):
    return Job(**{"encoder": encoder, "run": "runs/pretrain", "source": source, "vectors": "projected",
                  "dtype": "float32", "rows": 3, "batch_size": 2, "command": "embed"} | changes)


def tables(out):
    return pq.read_table(sorted(out.glob("*.parquet")))


def vectors(read):
    return np.stack(read["embedding"].to_numpy())


def test_each_image_has_a_row_with_its_vector_and_its_facts(encoder, folder, tmp_path, capsys):
    embed(job(encoder, DataSet(folder, encoder.sensors)), tmp_path)
    assert "22 vectors of 11 entries in 4 files, 0 rejected" in capsys.readouterr().out
    read = tables(tmp_path)
    ids = [f"train{number:03d}" for number in range(7)] + [f"test{number:03d}" for number in range(4)]
    assert read["id"].to_pylist() == [name for name in ids for _ in range(2)]
    assert read["sensor"].to_pylist() == ["s1", "s2"] * 11
    assert read["split"].to_pylist() == ["train"] * 14 + ["test"] * 8
    assert read["record"].to_pylist() == [number for count in (7, 4) for number in range(count) for _ in range(2)]
    assert str(read["time"][0].as_py()) == "2017-07-14 02:40:00+00:00" and read["geometry"].null_count == 22
    stored = [Records(folder, split, ("label",)).labels for split in ("train", "test")]
    assert read["label"].to_pylist() == [[name for name, there in zip(("dry", "wet"), row, strict=True) if there]
                                         for rows in stored for row in rows for _ in range(2)]
    batch = BatchReader(Records(folder, "train", ("s1", "s2")))(range(7))
    expected = encoder.encode(s1=batch["s1"], s2=batch["s2"], units="stored")
    for row, name in enumerate(("s1", "s2")):
        np.testing.assert_allclose(vectors(read)[row:14:2], expected[name], rtol=2e-5, atol=2e-5)
    facts = table.read_facts(tmp_path / "part-00000-of-00004.parquet")
    assert facts["run"]["digest"] == encoder.digest and facts["run"]["step"] == 1
    assert facts["data"]["fingerprint"] == DataSet(folder, encoder.sensors).facts["fingerprint"]
    assert sums.of_text((tmp_path / sums.NAME).read_bytes()).keys() == {
        *(path.name for path in tmp_path.glob("*.parquet")), "README.md"}


def test_the_metadata_are_those_of_geoparquet(encoder, tmp_path):
    rows = [table.Row("a", "a", "s1", "", -1, places.point(54.5, -83.25), None, 0),
            table.Row("b", "b", "s1", "", 0, None, None, 1)]
    table.write(tmp_path / "x.parquet", rows, np.ones((2, 4), np.float32), "float32", None, {})
    read = pq.read_table(tmp_path / "x.parquet")
    assert json.loads(read.schema.metadata[b"geo"]) == {"version": "1.1.0", "primary_column": "geometry", "columns": {
        "geometry": {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [-83.25, 54.5, -83.25, 54.5]}}}
    assert shapely.from_wkb(read["geometry"][0].as_py()).coords[:] == [(-83.25, 54.5)]
    assert read["time"].to_pylist()[0] is None and read["time"][1].as_py().year == 1970
    assert str(read.schema.field("embedding").type) == "fixed_size_list<element: float>[4]"
    assert "label" not in read.schema.names and "scale" not in read.schema.names


def test_int8_is_within_half_a_step(encoder, folder, tmp_path):
    for dtype in ("float32", "int8"):
        embed(job(encoder, DataSet(folder, encoder.sensors), dtype=dtype), tmp_path / dtype)
    exact, read = tables(tmp_path / "float32"), tables(tmp_path / "int8")
    assert str(read.schema.field("embedding").type) == "fixed_size_list<element: int8>[8]"
    scale = read["scale"].to_numpy()[:, None]
    assert np.abs(vectors(read) * scale - vectors(exact)).max() <= 0.501 * scale.max()
    restored = [table.read_vectors(path)[0] for path in sorted((tmp_path / "int8").glob("*.parquet"))]
    np.testing.assert_array_equal(np.concatenate(restored), vectors(read) * scale)
    assert (np.abs(vectors(read)).max(axis=1) == 127).all()  # the whole range is used
    integers, zero = table.quantised(np.zeros((1, 3), np.float32))
    assert not integers.any() and zero == 0


def test_a_killed_command_goes_on(encoder, folder, tmp_path, monkeypatch, capsys):
    source = DataSet(folder, encoder.sensors)
    embed(job(encoder, source), tmp_path / "whole")

    def killed(path, *arguments):
        if "00002" in path.name:
            raise KeyboardInterrupt
        return write_table(path, *arguments)

    write_table = table.write
    monkeypatch.setattr(write.table, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        embed(job(encoder, source), tmp_path / "killed")
    assert not (tmp_path / "killed" / sums.NAME).exists()
    monkeypatch.undo()
    (tmp_path / "killed" / ".part-00002.x.tmp").write_text("left by a kill")
    first = (tmp_path / "killed" / "part-00000-of-00004.parquet").stat().st_mtime_ns
    embed(job(encoder, source), tmp_path / "killed")
    assert "2 of 4 files are there already" in capsys.readouterr().out
    assert (tmp_path / "killed" / "part-00000-of-00004.parquet").stat().st_mtime_ns == first
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "killed").iterdir()} == names
    for name in names:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_another_run_or_other_files_in_the_folder_are_one_line(encoder, folder, tmp_path):
    source = DataSet(folder, encoder.sensors)
    embed(job(encoder, source), tmp_path)
    for changed, message in (
            (job(encoder, source, vectors="pooled"), "vectors: projected, now pooled; give another --out"),
            (job(encoder, source, rows=4), "rows: 3, now 4"),
            (job(encoder, DataSet(folder, encoder.sensors, "test")), "splits: ['train', 'test'], now ['test']")):
        with pytest.raises(UserError, match=f"part-00000-of-00004.parquet' was made with .*{re.escape(message)}"):
            embed(changed, tmp_path)
    (tmp_path / "part-00001-of-00004.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(UserError, match="is no table of embeddings, or damaged"):
        embed(job(encoder, source), tmp_path)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="holds 'mine.txt', which is not of this command"):
        embed(job(encoder, source), tmp_path)


def test_the_example_of_the_card_reads_the_vectors(encoder, folder, tmp_path, monkeypatch):
    embed(job(encoder, DataSet(folder, encoder.sensors, "test"), dtype="int8"), tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert encoder.digest in card and "both sensors lie in one space" in card and "licence | none" in card
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", card, re.DOTALL)[1], names)
    restored, sensors = table.read_vectors(tmp_path / "part-00000-of-00002.parquet")
    assert names["vectors"].shape == (4, 8)
    np.testing.assert_array_equal(names["vectors"][:3], restored[sensors == "s1"])


def test_own_geotiffs_are_cut_and_what_cannot_be_read_is_named(encoder, real_data, tmp_path, capsys):
    raw = tmp_path / "raw"
    for name in ("S1RTC", "S2L2A"):
        shutil.copytree(real_data / "terramesh" / name, raw / name)
    tiles = sorted(path.stem for path in (raw / "S2L2A").glob("*.tif"))
    (raw / "geotiff.json").write_text(json.dumps({
        "s1": {"files": "S1RTC/{place}.tif", "bands": ["VV", "VH"], "unit": "dB", "product": "rtc"},
        "s2": {"files": "S2L2A/{place}.tif", "level": "l2a", "offset": 0, "bands": list(encoder.bands["s2"])},
        "size": 224, "licence": "CC-BY-SA-4.0", "attribution": "TerraMesh"}))
    damaged = raw / "S2L2A" / f"{tiles[1]}.tif"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    with pytest.raises(UserError, match="sensor unit differ: '.*' has 's1_rtc' unit=dB .gamma0, RTC.*'s1_grd'"):
        RawData(raw, "geotiff", "", encoder.sensors)
    source = RawData(raw, "geotiff", "", {"s2": encoder.sensors["s2"]}, size=112)
    embed(job(encoder, source), tmp_path / "out")
    assert "12 vectors of 4 entries in 2 files, 1 rejected" in (printed := capsys.readouterr().out)
    assert f"rejected: {tiles[1]}" in printed
    read = tables(tmp_path / "out")
    assert read["id"].to_pylist()[:4] == [f"{tiles[0]}_r{row}_c{column}" for row in (0, 1) for column in (0, 1)]
    assert [shapely.from_wkb(one).geom_type for one in read["geometry"].to_pylist()] == ["Point"] * 12
    assert set(read["sensor"].to_pylist()) == {"s2"}


def test_an_image_without_data_is_rejected(encoder, real_data, tmp_path):
    source = RawData(real_data / "sen1floods11", "sen1floods11", "tiles", {"s1": encoder.sensors["s1"]}, size=512)
    items = list(source.items(0, len(source)))
    rejected = [item for item in items if isinstance(item, Reject)]
    assert [one.id for one in rejected] == ["Paraguay_34417"] and "without data" in rejected[0].reason
    labels = {item.id: item.label for item in items if item not in rejected}
    assert labels["Ghana_83483"] is None and labels["Spain_7370579"] == "land"  # no pixel is labelled; most are land


@pytest.mark.parametrize("spec, label, expected", [
    (LabelSpec("image_class", ("a", "b")), np.int32(1), "b"),
    (LabelSpec("image_classes", ("a", "b")), np.array([1, 1], np.uint8), ["a", "b"]),
    (LabelSpec("number", unit="t"), np.float32(2.5), 2.5),
    (LabelSpec("pixel_classes", ("a", "b")), np.array([[0, 1], [1, 255]], np.uint8), "b"),
    (LabelSpec("pixel_classes", ("a", "b")), np.full((2, 2), 255, np.uint8), None),
])
def test_a_label_becomes_one_value(spec, label, expected):
    assert whole_label(label, spec) == expected


def test_a_footprint_has_four_corners_unless_it_crosses_the_antimeridian():
    from rasterio.crs import CRS

    utm, degrees = CRS.from_epsg(32633), CRS.from_epsg(4326)
    shape = shapely.from_wkb(places.footprint(Grid(utm, Affine(10, 0, 5e5, 0, -10, 5e6), (100, 100))))
    assert shape.geom_type == "Polygon" and shape.bounds == pytest.approx((15, 45.144, 15.013, 45.153), abs=1e-3)
    across = shapely.from_wkb(places.footprint(Grid(degrees, Affine(0.01, 0, 179.5, 0, -0.01, 10), (100, 100))))
    assert across.geom_type == "Point" and across.coords[0] == pytest.approx((-180, 9.5))
    assert places.footprint(Grid(None, Affine.identity(), (9, 9))) is None and places.point(np.nan, 1.0) is None


def test_the_command_writes_vectors(workdir, folder, tmp_path):
    done = commands.run("-m", "dual_encoder.embed", f"--workdir={workdir}", f"--data={folder}",
                       f"--out={tmp_path / 'out'}", "--split=test")
    assert done.returncode == 0, done.stderr
    assert "8 vectors of 4 entries in 1 files" in done.stdout and "ETA 0:00" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    (["--split=tset"], "tset"), (["--size=64"], "--size cuts raw images"), (["--rows=0"], "--rows is 0; expected at"),
    (["--sensors=s3"], "--sensors names 's3'; the run has s1, s2"), (["--data=none"], "--data 'none' is no folder"),
    (["--workdir=none"], "'none' holds no checkpoints"), (["--data=docs"], "geotiff.json"),
])
def test_a_mistake_gets_one_line(workdir, folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, "argv", ["embed", f"--workdir={workdir}", f"--data={folder}", f"--out={tmp_path / 'out'}",
                                      *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match="2"):
        command.main()
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed
    assert not (tmp_path / "out").exists()
