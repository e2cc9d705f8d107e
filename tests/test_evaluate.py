"""Evaluation of a finished run: the fold that it holds out, other folds, groups, and a list of evaluations."""

import json

import numpy as np
import pytest
from etils import epath

from configs import evaluate as config_file
from dual_encoder.config import parse
from dual_encoder.data.records import Records
from dual_encoder.data.selection import record_groups, select
from dual_encoder.errors import UserError
from dual_encoder.tasks.build import AnyConfig, build, build_evaluation
from dual_encoder.training.evaluate import evaluate
from dual_encoder.training.loop import fit
from tests import runs


def configure(run="x", **changes):
    return parse(AnyConfig, config_file.get_config().to_dict() | {"init_from": str(run)} | changes)


def score(workdir, config):
    """Evaluates as main.py does; returns the scores."""
    evaluate(config, runs.one_device(), epath.Path(workdir))
    return read(workdir)


def read(workdir):
    return json.loads((workdir / "evaluation" / "scores.json").read_text())


@pytest.fixture(scope="module")
def trained(write_dataset, tmp_path_factory):
    """A run that holds one of three folds out: 10 of 30 places, in two groups of five."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = write_dataset(train=30)
    rows = "".join(f"place{n},scene{n // 5}\n" for n in range(30))
    (folder / "groups.csv").write_text(f"location_id,group\n{rows}")
    config = runs.configure(data, data__subset={"folds": 3, "fold": 1, "groups": str(folder / "groups.csv")})
    fit(build(config, runs.one_device()), runs.one_device(), epath.Path(folder / "run"))
    return config, folder / "run"


def test_a_run_with_folds_is_evaluated_on_the_fold_that_it_holds_out(trained, tmp_path, capfd):
    config, run = trained
    before = read(run)
    assert before["s1_to_s2"]["gallery_size"] == 10 and before["groups"]["s1_to_s2_of_largest"]["gallery_size"] == 6
    assert score(run, configure(run)) == before
    out = capfd.readouterr().out
    assert "fold 1 of 3 of split 'train'" in out and "train: a fold of places that the model is not trained on" in out
    same = configure(run, split="train", folds=3, fold=1)
    assert build_evaluation(same).own and score(tmp_path / "same", same) == before
    other = configure(run, split="train", folds=3, fold=2)
    with pytest.raises(UserError, match="scores of step .*, fold 2 of 3 of split 'train' of .* are not those that the"):
        score(run, other)
    assert read(run) == before
    assert score(tmp_path / "other", other) != before
    assert "train: the model is trained on these records" in capfd.readouterr().out
    score(tmp_path / "other", other)  # a second time into its own workdir


def test_a_split_that_is_named_is_evaluated_whole(trained, tmp_path):
    _, run = trained
    built = build_evaluation(configure(run, split="test"))
    assert built.title == "split 'test'" and len(built.records) == 8 and not built.own
    with pytest.raises(UserError, match="give another --workdir"):
        score(run, configure(run, split="test"))
    assert score(tmp_path / "test", configure(run, split="test", groups="place"))["s1_to_s2"]["gallery_size"] == 8


def test_scores_of_another_step_stay_apart(write_dataset, tmp_path):
    config = runs.configure(write_dataset(), schedule__steps=2, schedule__checkpoint_every=1, schedule__keep=2)
    fit(build(config, runs.one_device()), runs.one_device(), epath.Path(tmp_path / "run"))
    own = read(tmp_path / "run")
    with pytest.raises(UserError, match=r"scores of step 1, .* \(another step, .* give another --workdir"):
        score(tmp_path / "run", configure(tmp_path / "run", init_step=1))
    assert read(tmp_path / "run") == own and own["step"] == 2
    assert score(tmp_path / "first", configure(tmp_path / "run", init_step=1))["step"] == 1
    assert score(tmp_path / "run", configure(tmp_path / "run", init_step=2))["step"] == 2


def test_other_data_is_evaluated_on_its_evaluation_split(trained, write_dataset):
    _, run = trained
    built = build_evaluation(configure(run, data_dir=str(write_dataset(seed=4, test=6)), groups="place"))
    assert built.title == "split 'test'" and len(built.records) == 6 and not built.own and not built.held_out


def test_folds_and_groups_of_the_evaluation(trained, tmp_path):
    config, run = trained
    groups = config.data.subset.groups
    built = build_evaluation(configure(run, split="train", folds=2, fold=1, groups="place"))
    whole = Records(config.data.dir, "train", ("s1", "s2"))
    subset = runs.configure(config.data.dir, data__subset={"folds": 2, "fold": 1, "groups": "place"}).data.subset
    assert built.records.location_ids == select(whole, subset)[1].location_ids and not built.own
    assert build_evaluation(configure(run, groups=groups)).own
    assert not build_evaluation(configure(run, groups="event")).own
    number = record_groups(whole, groups)
    scene = [whole.location_ids[row] for row in np.flatnonzero(number == number[7])]
    assert scene == [f"place{n}" for n in range(5, 10)]


def test_some_evaluations(trained, tmp_path):
    _, run = trained
    config = configure(run, evaluations=("embedding_space",))
    with pytest.raises(UserError, match="give another --workdir"):
        score(run, config)
    before = read(run)
    assert score(tmp_path / "space", config) == {"step": 2, "space": before["space"]}
    assert not list((tmp_path / "space" / "evaluation").glob("*.png"))


@pytest.mark.parametrize("changes, message", [
    ({"evaluations": ("retrival",)}, r"config.evaluations\[0\] is 'retrival'; did you mean 'retrieval'"),
    ({"evaluations": ("retrieval",) * 2}, "config.evaluations is .*; expected each name once"),
    ({"folds": 3}, "config.split is ''; expected the split that config.folds divides, such as train"),
    ({"folds": 3, "fold": 3, "split": "train"}, "config.fold is 3; expected 0 to 2"),
])
def test_a_mistake_in_the_configuration_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        configure(**changes)


def test_mistakes_that_only_the_data_show_are_one_line(trained, write_dataset):
    _, run = trained
    with pytest.raises(UserError, match="none.csv'; expected place, event, or a CSV file"):
        build_evaluation(configure(run, split="train", folds=2, groups="none.csv"))
    with pytest.raises(UserError, match="split 'test' of '.*' has no records; choose another --config.split"):
        build_evaluation(configure(run, data_dir=str(write_dataset(test=0)), split="test"))
