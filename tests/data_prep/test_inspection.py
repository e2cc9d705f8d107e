"""The inspect report: every number against a count by hand; the contact sheet against quicklook."""

import numpy as np
import pytest
from PIL import Image

from data_prep.look import inspection
from dual_encoder.errors import UserError
from dual_encoder.imagery import pictures
from dual_encoder.imagery.palette import label_to_rgb
from dual_encoder.imagery.sensors import SENSORS


@pytest.fixture
def report(tiny, tmp_path):
    folder, images = tiny
    return list(inspection.inspect(folder, "", 512, tmp_path / "sheet.png")), images, tmp_path / "sheet.png"


def test_report_counts(report):
    lines, images, _ = report
    text = "\n".join(lines)
    assert "split train              7 records     2 shards" in text
    assert "split test               2 records     1 shards" in text
    valid = 1 - (64 + 16) / (9 * 64)  # record 5 and two rows of record 0
    assert f"s1: s1_grd, int16[8, 8, 2], stored x 0.01 = dB (sigma0, GRD); {valid:.2%} of pixels valid" in text
    pixels = images["s2"][(images["s2"] != 0).any(-1)] / 1e4
    line = next(line for line in lines if line.startswith("  B8A")).split()
    np.testing.assert_allclose([float(value) for value in line[1:]],
                               [pixels[:, 8].min(), pixels[:, 8].mean(), pixels[:, 8].max()], rtol=1e-3)
    assert "5 distinct locations in 9 records" in text


def test_report_time_gaps_and_classes(report):
    lines, images, _ = report
    start = lines.index("time between S1 and S2")
    gaps = [line.split() for line in lines[start + 1:start + 6]]
    # Record 0 has no time, record n is n days apart.
    assert [gap[:-1] for gap in gaps] == [["1-2", "days", "1"], ["2-3", "days", "1"], ["3-7", "days", "4"],
                                          ["7-14", "days", "2"], ["unknown", "1"]]
    assert len(gaps[2][-1]) == round(40 * 4 / 9)
    counts = np.bincount(images["label"].ravel(), minlength=256)
    assert f"label: {1 - counts[255] / counts.sum():.2%} of pixels valid, 8 ignored" in lines
    for value, name in enumerate("abc"):
        line = next(line for line in lines if line.startswith(f"  {value} {name} "))
        assert f"{counts[value] / counts[:3].sum():.2%}" in line


def test_contact_sheet_shows_the_records(report):
    _, images, path = report
    with Image.open(path) as image:
        sheet = np.asarray(image)
    tile, gap, top, left, legend = 192, 4, 21, 150, 190
    assert sheet.shape == (top + 3 * (tile + gap) + gap, left + 8 * (tile + gap) + gap + legend, 3)
    x, y = left + gap, top + gap
    first = pictures.image_to_rgb(images["s2"][0], SENSORS["s2_l2a"]).repeat(24, 0).repeat(24, 1)
    np.testing.assert_array_equal(sheet[y + 196:y + 196 + tile, x:x + tile], first)
    last = label_to_rgb(images["label"][8]).repeat(24, 0).repeat(24, 1)
    np.testing.assert_array_equal(sheet[y + 392:y + 392 + tile, x + 7 * 196:x + 7 * 196 + tile], last)


def test_large_sets_are_sampled_and_say_so(tiny, tmp_path):
    folder, _ = tiny
    lines = list(inspection.inspect(folder, "train", 3, tmp_path / "sheet.png"))
    assert "the figures below are of 3 of 7 records, evenly spaced (--records)" in lines
    assert any("in 3 records" in line for line in lines)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 150 + 3 * 196 + 4 + 190


def test_inspect_command(built, cli, tmp_path):
    folder, _ = built
    process = cli("inspect", folder)
    assert process.returncode == 0, process.stderr
    assert (folder / "inspect.png").is_file() and "0-1 days" in process.stdout
    process = cli("inspect", folder, "--split=tset", f"--out={tmp_path}/x.png")
    assert process.returncode == 2 and "has no split 'tset'" in process.stderr
    process = cli("inspect", folder, f"--out={tmp_path}/no/x.png")
    assert process.returncode == 2 and "cannot write" in process.stderr and process.stderr.count("\n") == 1
    assert cli("inspect", folder, "--records=0").returncode == 2


def test_folder_above_is_pointed_below(built, tmp_path):
    folder, _ = built
    with pytest.raises(UserError, match=f"it is in '{folder}'"):
        next(inspection.inspect(folder.parent.parent, "", 1, tmp_path / "x.png"))
