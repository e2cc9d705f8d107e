"""Streaming statistics against numpy over all pixels at once."""

import json

import numpy as np
import pytest

from data_prep.look import statistics
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SensorSpec


def test_compute_equals_numpy_over_all_valid_pixels(tiny):
    folder, images = tiny
    result = statistics.compute(folder, "train")
    for feature, no_data in (("s1", -32768), ("s2", 0)):
        pixels = np.array([pixel for image in images[feature][:7] for row in image for pixel in row
                           if any(value != no_data for value in pixel)], np.float64)
        spec = SensorSpec.from_json(result["sensors"][feature])
        np.testing.assert_allclose(spec.mean, pixels.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(spec.std, pixels.std(axis=0), rtol=1e-12)
        assert result["provenance"]["pixels"][feature] == len(pixels)
    provenance = result["provenance"]
    assert provenance["data_set"] == "tiny/random/1.0.0" and provenance["records"] == 7
    assert provenance["split"] == "train" and "0.01 = dB" in provenance["units"]["s1"]
    assert provenance["fingerprint"][:12] in result["sensors"]["s2"]["provenance"]


def test_merge_is_exact_where_sums_of_squares_are_not():
    # The mean is 1e8 times the deviation: E[x^2] - E[x]^2 loses every digit in float64.
    values = 1e8 + np.random.default_rng(1).normal(size=(5000, 1))
    moments = statistics.Moments.of(values[:0])
    for part in np.split(values, [1, 10, 10, 4000]):
        moments = moments.merge(statistics.Moments.of(part))
    assert moments.count == 5000
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-15)


def test_stats_command_writes_json_for_the_trainer(tiny, cli, tmp_path):
    folder, _ = tiny
    out = tmp_path / "statistics.json"
    process = cli("stats", folder, "--split=train", f"--out={out}")
    assert process.returncode == 0, process.stderr
    assert f"--config.data.statistics={out}" in process.stdout
    values = json.loads(out.read_text())
    assert list(values["sensors"]) == ["s1", "s2"]
    SensorSpec.from_json(values["sensors"]["s1"])
    process = cli("stats", folder, "--split=trian", f"--out={out}")
    assert process.returncode == 2 and "has no split 'trian'; it has ['test', 'train']" in process.stderr
    process = cli("stats", folder, f"--out={tmp_path}/no/where.json")
    assert process.returncode == 2 and "does not exist; make it first" in process.stderr


def test_band_of_one_value_is_refused():
    from dual_encoder.imagery.sensors import SENSORS

    moments = statistics.Moments.of(np.full((10, 2), 7.0))
    with pytest.raises(UserError, match="band VV of 's1_grd' has one value in all 10 pixels"):
        statistics._with_moments(SENSORS["s1_grd"], moments, "test")
