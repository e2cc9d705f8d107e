"""Probes of a run by the command: the vectors of encoder and controls, the report, and mistakes."""

import json
import re

import jax
import numpy as np
import pytest

from configs import probe as probe_file
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.imagery.normalise import normalise
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import AnyConfig, build_probe
from dual_encoder.training import frozen
from dual_encoder.training.probe import labelled_vectors, probe
from dual_encoder.workdir.checkpoint import load_model
from tests import commands, runs


@pytest.fixture(scope="module")
def run(write_dataset, tmp_path_factory):
    """The workdir of a small pre-training run."""
    workdir = tmp_path_factory.mktemp("runs") / "pretrain"
    runs.fit(runs.configure(write_dataset(), family="resnet"), workdir, jax.devices()[:1])
    return workdir


@pytest.fixture(scope="module")
def labelled(write_dataset):
    """Data sets with labels of whole images, by kind."""
    return {kind: write_dataset(train=40, test=24, labels=kind) for kind in ("image_class", "image_classes")}


def configure(run, folder, **changes):
    values = probe_file.get_config().to_dict() | {"init_from": str(run)}
    values["data"] |= {"dir": str(folder)} | changes.pop("data", {})
    return parse(AnyConfig, values | changes)


def vectors(config):
    """The probe, its test images, and their vectors."""
    built = build_probe(config)
    test = built.test.selected()
    rows = [test[number] for number in range(len(test))]
    batch = {name: np.stack([row[name] for row in rows]) for name in config.features}
    return built, batch, labelled_vectors(config, built, built.test, runs.one_device()).vectors


def pooled(built, variables, image):
    """The vectors of the first encoder of a probe."""
    encoder = built.encoders[0][0].encoder.make()
    return jax.jit(lambda v, image: encoder.apply(v, image, False).pooled)(variables, image)


def test_vectors_of_the_encoder_are_its_pooled_features(run, labelled):
    config = configure(run, labelled["image_class"])
    built, batch, found = vectors(config)
    model = load_model(str(run))
    expected = []
    for name in ("s1", "s2"):
        encoder = {kind: model.variables[kind][f"{name}_encoder"] for kind in ("params", "batch_stats")}
        image = normalise(batch[name], model.sensors[name])
        expected.append(pooled(built, encoder, image))
    np.testing.assert_allclose(found, np.concatenate(expected, axis=-1), rtol=1e-4, atol=1e-5)


def test_an_encoder_of_stacked_sensors_is_probed(labelled, write_dataset, tmp_path):
    runs.fit(runs.configure(write_dataset(), family="resnet", fusion="early", loss__name="nt_xent"), tmp_path / "run",
             jax.devices()[:1])
    folder = labelled["image_class"]
    built, batch, found = vectors(configure(tmp_path / "run", folder))
    model = load_model(str(tmp_path / "run"))
    encoder = {kind: model.variables[kind]["s1_s2_encoder"] for kind in ("params", "batch_stats")}
    stack = np.concatenate([normalise(batch[name], model.sensors[name]) for name in ("s1", "s2")], axis=-1)
    expected = pooled(built, encoder, stack)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    _, _, random = vectors(configure(tmp_path / "run", folder, representation="random"))
    assert random.shape == found.shape and not np.allclose(random, found)
    with pytest.raises(UserError, match=r"the checkpoint has no 's1_encoder', it has \['s1_s2_encoder'\]"):
        build_probe(configure(tmp_path / "run", folder, inputs="s1"))


def test_controls_are_what_they_say(run, labelled):
    folder = labelled["image_class"]
    _, batch, statistics = vectors(configure(run, folder, representation="statistics"))
    built, _, random = vectors(configure(run, folder, representation="random"))
    _, _, trained = vectors(configure(run, folder))
    _, _, features = vectors(configure(run, folder, representation="random_features"))
    spec = built.sensors["s1"]
    s1 = (batch["s1"].astype(np.float64) - spec.mean) / spec.std
    np.testing.assert_allclose(statistics[:, :2], s1.mean(axis=(1, 2)), atol=1e-4)
    np.testing.assert_allclose(statistics[:, 2:4], s1.std(axis=(1, 2)), atol=1e-4)
    assert statistics.shape[1] == 2 * (2 + 12)
    assert random.shape == trained.shape and not np.allclose(random, trained)
    _, _, again = vectors(configure(run, folder, representation="random"))
    _, _, other = vectors(configure(run, folder, representation="random", seed=1))
    np.testing.assert_array_equal(random, again)
    assert not np.allclose(random, other)
    assert features.shape[1] == 2 * 512 and (features >= 0).all() and features.std(axis=0).max() > 0.01


def test_random_features_equal_a_loop_over_windows(run, labelled):
    config = configure(run, labelled["image_class"], representation="random_features", inputs="s1")
    built, batch, found = vectors(config)
    filters = np.asarray(built.encoders[0][0].variables["params"]["s1"], np.float64)[..., :5]
    filters /= np.sqrt((filters**2).sum(axis=(0, 1, 2)))
    image = np.asarray(normalise(batch["s1"][:1], built.sensors["s1"]), np.float64)[0]
    response = np.array([[np.einsum("xyb,xybn->n", image[row:row + 3, column:column + 3], filters)
                          for column in range(38)] for row in range(38)])
    np.testing.assert_allclose(found[0, :5], np.maximum(response - 1, 0).mean(axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(found[0, 256:261], np.maximum(-response - 1, 0).mean(axis=(0, 1)), atol=1e-4)


@pytest.mark.parametrize("kind, key", [("image_class", "accuracy"), ("image_classes", "map")])
def test_scores_and_report_of_both_kinds_of_labels(run, labelled, tmp_path, kind, key):
    probe(configure(run, labelled[kind], representation="statistics"), mesh.make(), tmp_path)
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert scores["step"] == 2
    for name in ("knn", "linear"):
        assert 0.5 < scores[name][key] <= 1, "the mean of the radar image says how much of it is wet"
        assert scores[name]["support"].keys() == {"dry", "wet"}


@pytest.mark.parametrize("representation", ["encoder", "statistics", "random_features"])
def test_pixels_are_probed_on_maps(run, write_dataset, tmp_path, representation):
    folder = write_dataset(train=40, test=24, labels="pixel_classes")
    config = configure(run, folder, representation=representation, probes=("linear",), cache=str(tmp_path / "cache"))
    probe(config, mesh.make(), tmp_path / "one")
    scores = json.loads((tmp_path / "one" / "evaluation" / "scores.json").read_text())["linear"]
    assert 0.5 < scores["miou"] <= 1, "water is dark in the radar image"
    text = (tmp_path / "one" / "evaluation" / "linear.csv").read_text()
    table = PerImage.from_csv(text, "counts", tuple(scores["iou"]))
    assert len(table.ids) == 24
    assert np.load(tmp_path / "one" / "evaluation" / "linear.npz")["predictions"].shape == (24, 40, 40)
    assert table.score("miou")(table.values, np.ones((1, 24)))[0] == pytest.approx(scores["miou"])


def test_a_second_probe_takes_the_outputs_from_the_cache_and_a_damaged_one_is_made_anew(
        run, labelled, tmp_path, monkeypatch, capsys):
    config = configure(run, labelled["image_class"], cache=str(tmp_path / "cache"))
    probe(config, mesh.make(), tmp_path / "one")
    entries = sorted((tmp_path / "cache").iterdir())
    assert len(entries) == 4  # two encoders, two splits
    with monkeypatch.context() as patch:
        patch.setattr(frozen, "predictor", lambda *args: lambda *args: pytest.fail("the encoders ran again"))
        probe(config, mesh.make(), tmp_path / "two")
    file = entries[0] / "vector.npy"
    data = bytearray(file.read_bytes())
    data[-3] ^= 8
    file.write_bytes(data)
    probe(config, mesh.make(), tmp_path / "three")
    assert "vector.npy' is damaged" in capsys.readouterr().out
    scores = [(tmp_path / name / "evaluation" / "scores.json").read_bytes() for name in ("one", "two", "three")]
    assert scores[0] == scores[1] == scores[2]
    assert sorted((tmp_path / "cache").iterdir()) == entries
    random = configure(run, labelled["image_class"], cache=str(tmp_path / "cache"), representation="random")
    probe(random, mesh.make(), tmp_path / "random")
    assert len(list((tmp_path / "cache").iterdir())) == 8


def test_the_command_writes_a_report(run, labelled, tmp_path):
    folder = labelled["image_class"]
    flags = ["--config=configs/probe.py", f"--config.init_from={run}", f"--config.data.dir={folder}"]
    done = commands.run("main.py", *flags, f"--workdir={tmp_path / 'probe'}", "--config.probes=('knn',)")
    assert done.returncode == 0, done.stderr
    assert re.search(r"knn: accuracy 0\.\d+  macro_f1 0\.\d+", done.stdout)
    page = (tmp_path / "probe" / "report.html").read_text()
    assert "Nearest neighbours" in page and "always the most frequent class" in page and "Linear probe" not in page


@pytest.mark.parametrize("changes, message", [
    ({"data": {"eval_split": "train"}}, "config.data.eval_split is 'train'; expected another split than train"),
    ({"data": {"validation_split": "test"}}, "another split than test and train, which the probes learn from"),
    ({"probes": ()}, r"config.probes is \(\); expected 'knn', 'linear' or both"),
    ({"probes": ("nearest",)}, "config.probes.* is 'nearest'"),
    ({"init_from": ""}, "config.init_from is ''; expected the workdir of a run"),
    ({"inputs": "s1+"}, "config.inputs is 's1\\+'"),
])
def test_a_mistake_is_one_line(labelled, changes, message):
    with pytest.raises(UserError, match=message):
        configure("run", labelled["image_class"], **changes)


def test_data_that_do_not_fit_are_one_line(run, labelled, write_dataset, tmp_path):
    with pytest.raises(UserError, match=r"config.probes is \('knn', 'linear'\), the data set has labels of pixels"):
        build_probe(configure(run, write_dataset(labels=True)))
    with pytest.raises(UserError, match="give another folder for these scores"):
        probe(configure(run, labelled["image_class"]), mesh.make(), type(tmp_path)(run))


def test_a_place_that_is_learnt_from_and_scored_is_refused_by_name(run, write_dataset, tmp_path, monkeypatch):
    folder = write_dataset(train=20, test=8, labels="image_class")
    config = configure(run, folder)
    built = build_probe(config)
    monkeypatch.setattr(type(built.test.records), "location", lambda self, number, location: number)
    with pytest.raises(UserError, match="[5-8] of 8 test images are of places that the train split holds too, "
                                        "first 'test00.' of place 'test.'"):
        probe(config, mesh.make(), tmp_path)
