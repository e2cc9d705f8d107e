"""The sample: digests are checked, nothing half-done stays, and no network is told in one line."""

import hashlib
import json
import os
import pathlib
import types
import zipfile

import numpy as np
import pytest
import rasterio

from data_prep import sample, sample_scene
from data_prep.importers import Entry
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

INSIDE = "configilm/extra/mock_data/"
FILES = {"BENv2/BigEarthNet-V2-LMDB/data.mdb": b"pixels", "BENv2/metadata.parquet": b"table"}


def write_wheel(path, files):
    with zipfile.ZipFile(path, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(INSIDE + name, data)
        wheel.writestr(INSIDE + "BENv1/pickles.mdb", b"never unpacked")
        wheel.writestr("configilm/__init__.py", b"")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A small wheel that counts as 0.7.1."""
    path = tmp_path / "configilm-0.7.1-py3-none-any.whl"
    monkeypatch.setitem(sample.WHEELS, "0.7.1", write_wheel(path, FILES))
    return path


def test_only_the_sample_is_extracted(wheel, tmp_path):
    out = tmp_path / "out"
    assert sample.fetch(out, [wheel])
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert set(files) == {"sample.json", "ATTRIBUTION.md"} | {f"configilm-0.7.1/{name}" for name in FILES}
    for name, data in FILES.items():
        assert files[f"configilm-0.7.1/{name}"] == data
        digest = hashlib.sha256(data).hexdigest()
        assert json.loads(files["sample.json"])["0.7.1"][f"configilm-0.7.1/{name}"] == digest
    for word in (b"CDLA-Permissive-1.0", b"Copernicus Sentinel", b"MIT"):
        assert word in files["ATTRIBUTION.md"]


def test_complete_sample_is_left_alone_and_a_damaged_one_mended(wheel, tmp_path):
    out = tmp_path / "out"
    sample.fetch(out, [wheel])
    file = out / "configilm-0.7.1/BENv2/metadata.parquet"
    before = file.stat().st_mtime_ns
    assert not sample.fetch(out, [wheel]) and file.stat().st_mtime_ns == before
    file.write_bytes(b"tablE")
    assert sample.fetch(out, [wheel]) and file.read_bytes() == b"table"
    file.unlink()
    assert sample.fetch(out, [wheel]) and file.read_bytes() == b"table"


def test_second_wheel_keeps_the_first(wheel, tmp_path, monkeypatch):
    out, other = tmp_path / "out", tmp_path / "other.whl"
    monkeypatch.setitem(sample.WHEELS, "0.6.3", write_wheel(other, {"BENv2/patch_id_s1_mapping.csv": b"csv"}))
    sample.fetch(out, [wheel])
    sample.fetch(out, [other])
    assert set(json.loads((out / "sample.json").read_text())) == {"0.6.3", "0.7.1"}
    assert not sample.fetch(out)  # both are there: no download


def test_wrong_files_are_refused(wheel, tmp_path, monkeypatch):
    out = tmp_path / "out"
    data = bytearray(wheel.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flipped.whl").write_bytes(data)
    with pytest.raises(UserError, match="flipped.whl' has sha256 .*expected .*0.6.3.* or .*0.7.1.*; download it again"):
        sample.fetch(out, [tmp_path / "flipped.whl"])
    with pytest.raises(UserError, match="wheel '.*nothing.whl' does not exist"):
        sample.fetch(out, [tmp_path / "nothing.whl"])
    monkeypatch.setitem(sample.WHEELS, "0.7.1", write_wheel(wheel, {}))
    with pytest.raises(UserError, match="holds no configilm/extra/mock_data/BENv2/"):
        sample.fetch(out, [wheel])
    assert not list(out.rglob("*"))


def test_the_scene_lies_where_the_names_of_its_patches_say(tmp_path, monkeypatch):
    places = [("T33UUP_26_57", "test"), ("T33UUP_27_58", "test"), ("T33UUP_29_57", "test"), ("T33UUP_27_57", "train"),
              ("T35VNJ_26_58", "test")]
    images = {name: np.full((120, 120, 2), -1000 - number, np.int16) for number, (name, _) in enumerate(places)}
    images["T33UUP_26_57"][3, 4] = -32768
    entries = [Entry(name, name, split, {}, times={}) for name, split in places]
    reader = types.SimpleNamespace(entries=lambda: entries, read=lambda entry: types.SimpleNamespace(
        images={"s1": images[entry.id]}))
    monkeypatch.setattr(sample_scene.importers, "open_raw", lambda *arguments: reader)
    with rasterio.open(sample_scene.write(tmp_path / "raw", tmp_path / "scene")) as file:
        values = file.read()
        # The corner of T33UUP_26_57 is that of its reference map in BigEarthNet.
        assert file.crs.to_epsg() == 32633 and file.transform[:6] == (10, 0, 331200, 0, -10, 5331600)
    expected = np.full((2, 240, 240), np.nan, np.float32)  # T33UUP_29_57 does not touch the others
    expected[:, :120, :120], expected[:, 120:, 120:] = -10, -10.01
    expected[:, 3, 4] = np.nan
    np.testing.assert_allclose(values, expected)
    entries.clear()
    with pytest.raises(UserError, match="holds no test patch of tile T33UUP"):
        sample_scene.write(tmp_path / "raw", tmp_path / "scene")


def test_no_network_is_one_line(cli, tmp_path):
    # Port 9 of the own machine: nobody answers.
    process = cli("sample", f"--out={tmp_path / 'out'}", PIP_INDEX_URL="http://127.0.0.1:9/simple",
                  PIP_CONFIG_FILE=os.devnull, PIP_EXTRA_INDEX_URL="", PIP_FIND_LINKS="")
    assert process.returncode == 2, process.stdout
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: pip could not download configilm==0.6.3")
    assert "--wheel=FILE" in process.stderr and not list((tmp_path / "out").rglob("*.json"))


def test_sample_command_with_the_real_wheels(cli, tmp_path):
    folder = os.environ.get("S1S2_WHEELS")
    wheels = sorted(pathlib.Path(folder).glob("configilm-*.whl")) if folder else []
    if not wheels:
        pytest.skip("S1S2_WHEELS names no folder with configilm wheels")
    process = cli("sample", f"--out={tmp_path}", *(f"--wheel={wheel}" for wheel in wheels))
    assert process.returncode == 0, process.stderr
    assert f"--importer=bigearthnet --raw={tmp_path}" in process.stdout
    assert len(list(tmp_path.rglob("data.mdb"))) == len(wheels) and not list(tmp_path.rglob("BENv1"))
    process = cli("sample", f"--out={tmp_path}", *(f"--wheel={wheel}" for wheel in wheels),
                  f"--scene={tmp_path / 'scene'}")
    assert process.returncode == 0 and "is complete" in process.stdout
    assert f"scene: {tmp_path / 'scene' / sample_scene.FILE}" in process.stdout
