"""What a configuration leaves open follows from the run to start from, the data and the device."""

import json

import pytest
from etils import epath

from configs import finetune, pretrain
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.tasks.build import AnyConfig, build, build_evaluation
from dual_encoder.tasks.sizing import Facts, sizes
from dual_encoder.training.evaluate import evaluate
from dual_encoder.training.loop import fit
from tests import runs
from tests.test_evaluate import configure as to_evaluate

LEARNT = {"data.split": "train", "data.eval_split": "test"}


@pytest.fixture(scope="module")
def pretrained(write_dataset, tmp_path_factory):
    """A run whose encoder no configuration file has."""
    workdir = tmp_path_factory.mktemp("resolve") / "pretrain"
    config = runs.configure(write_dataset(), encoder__patch=4, encoder__width=128)
    fit(build(config, runs.one_device()), runs.one_device(), epath.Path(workdir))
    return workdir


@pytest.fixture(scope="module")
def tiles(write_dataset, tmp_path_factory):
    """Tiles with three splits: 'validation' are the records of 'test' once more."""
    folder = write_dataset(labels=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"]["validation"] = [dict(shard, file=shard["file"].replace("test", "validation"))
                                        for shard in manifest["shards"]["test"]]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for path in list(folder.glob("*test*")):
        path.with_name(path.name.replace("test", "validation")).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def finetuned(pretrained, tiles, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("resolve") / "water"
    config = runs.configure(tiles, "water_weak", init_from=str(pretrained), schedule__eval_every=1)
    built = build(config, runs.one_device())
    fit(built, runs.one_device(), epath.Path(workdir))
    return built, workdir


def test_fine_tuning_takes_encoder_and_statistics_of_the_run(finetuned, pretrained):
    built, _ = finetuned
    stored = json.loads((pretrained / "config.json").read_text())["encoder"]
    assert (built.config.encoder.patch, built.config.encoder.width) == (4, 128) == (stored["patch"], stored["width"])
    told = json.loads((pretrained / "run.json").read_text())["sensors"]["s1"]["mean"]
    assert list(built.task.sensors["s1"].mean) == told


def test_an_override_that_contradicts_the_run_is_an_error_at_once(pretrained, tiles):
    config = runs.configure(tiles, "water_weak", init_from=str(pretrained), encoder__width=192)
    with pytest.raises(UserError, match="--config.encoder.width=192 contradicts the run .* width=128; leave it out"):
        build(config, runs.one_device(), ["encoder.width"])
    same = runs.configure(tiles, "water_weak", init_from=str(pretrained), encoder__width=128)
    assert build(same, runs.one_device(), ["encoder.width", "encoder.dtype"]).config.encoder.width == 128


def test_the_state_is_chosen_on_validation_and_test_is_scored_once(finetuned):
    built, workdir = finetuned
    assert built.config.data.select_split == "validation"
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("select") == 2 and kinds.count("eval") == 1 and kinds.index("eval") > kinds.index("select")
    assert (workdir / "best" / "checkpoints").is_dir()


def test_without_a_split_to_choose_on_only_the_end_is_scored(write_dataset):
    data = write_dataset(labels=True)
    config = runs.configure(data, "water_weak", schedule__eval_every=1)
    built = build(config, runs.one_device())
    assert (built.config.data.select_split, built.config.schedule.eval_every) == ("", 0)
    assert "held_out chooses on a fifth" in built.notes[0]
    wanted = build(config, runs.one_device(), ["schedule.eval_every"])
    assert (wanted.config.data.select_split, wanted.config.schedule.eval_every) == ("", 1)


def test_a_run_of_before_goes_on_as_it_began(finetuned, tmp_path):
    built, workdir = finetuned
    stored = json.loads((workdir / "config.json").read_text())
    del stored["data"]["select_split"], stored["sizing"]  # as a version without these keys stored it
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = runs.configure(built.config.data.dir, "water_weak", init_from=built.config.init_from)
    assert build(config, runs.one_device(), (), epath.Path(tmp_path)).config.data.select_split == ""


def test_a_fine_tuned_run_is_scored_on_any_split(finetuned, tiles, tmp_path):
    _, run = finetuned
    evaluate(to_evaluate(run, split="train"), runs.one_device(), epath.Path(tmp_path / "train"))
    tables = {table["name"]: table for table in
              json.loads((tmp_path / "train/evaluation/tables.json").read_text())["tables"]}
    matrix = [row["values"] for row in tables["segmentation_confusion"]["rows"]]
    scores = json.loads((tmp_path / "train/evaluation/scores.json").read_text())
    (dry, wrong), (missed, wet) = matrix
    assert dry + wrong + missed + wet == 16 * 40 * 40
    assert scores["recall"]["wet"] == pytest.approx(wet / (wet + missed)) and scores["support"]["wet"] == wet + missed
    assert len((tmp_path / "train/evaluation/segmentation.csv").read_text().splitlines()) == 1 + 16
    before = json.loads((run / "evaluation/scores.json").read_text())
    evaluate(to_evaluate(run), runs.one_device(), epath.Path(run))  # of the state that it chose
    assert json.loads((run / "evaluation/scores.json").read_text()) == before
    with pytest.raises(UserError, match="are not those that the run gives itself"):
        evaluate(to_evaluate(run, split="train"), runs.one_device(), epath.Path(run))


def test_an_evaluation_that_does_not_fit_is_one_line(finetuned, write_dataset):
    _, run = finetuned
    with pytest.raises(UserError, match="its names are those of pre-training"):
        build_evaluation(to_evaluate(run, evaluations=("retrieval",)))
    folder = write_dataset(labels=True)
    text = (folder / "manifest.json").read_text().replace('"wet"', '"flood"')
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="tells the classes dry, wet, data set .* has dry, flood"):
        build_evaluation(to_evaluate(run, data_dir=str(folder)))


@pytest.mark.parametrize("platform, devices", [("cpu", 1), ("gpu", 1), ("tpu", 8)])
@pytest.mark.parametrize("count", [10, 100, 3000, 400_000])
@pytest.mark.parametrize("size", [13, 64, 264])
def test_sizes_fit_the_data_and_the_device(platform, devices, count, size):
    records = {"train": count, "validation": count, "test": count}
    found = sizes(Facts(records, size, platform, devices, 2, 2), LEARNT)
    assert 0 <= found["augment.crop"] <= size and found["batch_size"] % devices == 0
    assert found["batch_size"] <= max(count, devices)  # else there is no step
    steps = found["schedule.epochs"] * max(count // found["batch_size"], 1)
    assert found["schedule.log_every"] <= found["schedule.eval_every"] <= steps


def test_sizes_use_the_splits_that_there_are():
    def splits(**records):
        found = sizes(Facts(records, 64, "cpu", 1, 2, 2), LEARNT)
        return found["data.split"], found["data.eval_split"], found.get("data.subset.folds", 0)

    assert splits(train=80, validation=10, test=10) == ("train", "test", 0)
    assert splits(train=80, validation=10) == ("train", "validation", 0)
    assert splits(train=80) == ("train", "train", 5)
    assert splits(validation=80, test=20) == ("validation", "test", 0)


@pytest.mark.parametrize("file", [pretrain, finetune])
def test_a_small_run_sizes_itself_and_keeps_what_the_user_gave(file, tiles, tmp_path):
    config = parse(AnyConfig, json.loads(json.dumps(file.get_config("small").to_dict() | {
        "inputs": "s1+s2", "batch_size": 4, "data": file.get_config("small").data.to_dict() | {"dir": str(tiles)}})))
    built = build(config, runs.one_device(), ["batch_size"])
    assert (built.config.sizing, built.config.batch_size, built.config.augment.crop) == ("fixed", 4, 32)
    assert built.config.data.select_split == "validation" and built.notes[0].startswith("sizes for this data")
    assert "batch_size" not in built.notes[0]


def test_a_data_set_that_was_moved_is_told_with_a_key_that_works(finetuned, tiles, tmp_path):
    _, run = finetuned
    moved = tiles.rename(tmp_path / "moved")
    try:
        with pytest.raises(UserError, match="on which .* was trained, is not here; give .* --config.data_dir"):
            build_evaluation(to_evaluate(run))
        assert len(build_evaluation(to_evaluate(run, data_dir=str(moved))).records) == 8
    finally:
        moved.rename(tiles)
