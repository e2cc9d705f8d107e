"""Config files parse into dataclasses; mistakes name the nearest key."""

import json
import os

import pytest

from configs import classify, evaluate, finetune, pretrain, probe
from dual_encoder.command_line.config_file import reject_unused
from dual_encoder.config import differences, to_dict, upgrade
from dual_encoder.config import parse as parse_as
from dual_encoder.errors import UserError
from dual_encoder.tasks import pretrain as pretrain_task
from dual_encoder.tasks.build import AnyConfig

pytestmark = pytest.mark.quick


def parse(values, **options):
    return parse_as(AnyConfig, values, **options)


def smoke():
    return pretrain.get_config("smoke").to_dict()


@pytest.mark.parametrize("values", [
    *(pretrain.get_config(v).to_dict() for v in pretrain.VARIANTS),
    *(classify.get_config(v).to_dict() for v in classify.VARIANTS),
    *(finetune.get_config(v).to_dict() for v in finetune.VARIANTS),
    *(probe.get_config(v).to_dict() | {"init_from": "runs/x"} for v in probe.VARIANTS),
    evaluate.get_config().to_dict() | {"init_from": "runs/x"},
])
def test_every_variant_parses_and_round_trips(values):
    if "data" in values:
        values["data"]["dir"] = values["data"]["dir"] or "data/x"
    config = parse(values)
    stored = to_dict(config)
    assert parse(stored) == config
    for path, (given, kept) in differences(values, stored).items():  # only keys of alternatives that were not chosen
        if kept == os.path.abspath(str(given)):
            continue  # a path
        assert kept is None and given is not None and path.split(".")[0] in ("loss", "encoder", "optimizer"), path


def test_the_paper_scale_run_is_what_the_design_says():
    values = pretrain.get_config().to_dict()
    values["data"]["dir"] = "data/x"
    config = parse(values)
    assert (config.batch_size, config.encoder.depth, config.encoder.width) == (4096, 50, 64)
    assert (config.projection.hidden, config.projection.dim, config.optimizer.name) == (2048, 128, "lars")
    assert config.encoder.dtype == "bfloat16"


@pytest.mark.parametrize("group, key, value, message", [
    ("", "batchsize", 4, r"unknown config key 'config.batchsize'; did you mean 'batch_size'"),
    ("loss", "temprature", 0.1, r"'config.loss.temprature'; did you mean 'temperature'"),
    ("optimizer", "name", "adam", r"config.optimizer.name is 'adam'; did you mean 'adamw'"),
    ("", "batch_size", "64", r"config.batch_size is '64' \(str\); expected int"),
    ("", "batch_size", 1, r"config.batch_size is 1; expected at least 2"),
    ("encoder", "depth", 20, r"config.encoder.depth is 20; expected 18, 34, 50 or 101"),
    ("augment", "flips", 1, r"config.augment.flips is 1 \(int\); expected bool"),
    ("", "task", "pretain", r"config.task is 'pretain'; did you mean 'pretrain'"),
    ("data", "dir", "", r"config.data.dir is ''; expected a data set folder"),
    ("data", "weights", 0.5, r"config.data.weights is 0.5; expected values in parentheses, or \(\)"),
    ("data", "weights", ("half",), r"config.data.weights\[0\] is 'half' \(str\); expected float"),
    ("data", "max_bad_records", -1, r"config.data.max_bad_records is -1; expected at least 0"),
])
def test_a_mistake_names_the_key_and_what_was_expected(group, key, value, message):
    values = smoke()
    (values[group] if group else values)[key] = value
    with pytest.raises(UserError, match=message):
        parse(values)


def test_a_label_needs_one_window_for_all_images():
    values = finetune.get_config("water_weak").to_dict()
    values["augment"]["shared_crop"] = False
    with pytest.raises(UserError, match="config.augment.shared_crop is False; expected True: a label belongs"):
        parse(values)


def test_a_missing_key_is_named():
    values = smoke()
    del values["loss"]["temperature"]
    with pytest.raises(UserError, match="'config.loss.temperature' is missing"):
        parse(values)


def test_an_integer_serves_as_float():
    values = smoke()
    values["loss"]["temperature"] = 1
    assert parse(values).loss.temperature == 1.0


def test_a_tuple_survives_json():
    """config.json and checkpoints have lists."""
    values = smoke()
    values["data"]["weights"] = (1, 0.5)
    config = parse(values)
    assert config.data.weights == (1.0, 0.5)
    stored = json.loads(json.dumps(to_dict(config)))
    assert parse(stored) == config and differences(stored, to_dict(config)) == {}


def test_differences_lists_changed_leaves():
    old, new = smoke(), smoke()
    new["loss"]["temperature"] = 0.5
    del new["seed"]
    assert differences(old, new) == {"loss.temperature": (0.07, 0.5), "seed": (0, None)}


def test_a_stored_run_of_before_a_key_reads_as_it_was():
    """Checkpoints of earlier versions lack keys, and hold those of all objectives."""
    values = smoke()
    now = to_dict(parse(values))
    for group, key in (("optimizer", "ema"), ("optimizer", "decay"), ("data", "weights"), ("loss", "chunk")):
        del values[group][key]
    del values["train"]
    with pytest.raises(UserError, match="is missing"):
        parse(values)
    assert to_dict(parse(values, stored=True)) == now
    assert upgrade(pretrain_task.PretrainConfig, values) == now
    other = {"task": "finetune", "seed": 0}
    assert upgrade(pretrain_task.PretrainConfig, other) == other, "of another task: as it is"


def test_the_keys_of_an_alternative_are_those_it_uses():
    values = smoke()
    values["loss"] |= {"name": "barlow", "off_diagonal": 0.01}
    config = parse(values)
    assert to_dict(config)["loss"] == {"name": "barlow", "off_diagonal": 0.01}
    values["loss"]["offdiagonal"] = 1.0
    with pytest.raises(UserError, match="unknown config key 'config.loss.offdiagonal'; did you mean 'off_diagonal'"):
        parse(values)


def test_an_override_without_effect_is_refused():
    values = smoke()
    values["loss"]["name"] = "barlow"
    config = parse(values)
    reject_unused(["loss.name", "loss.off_diagonal", "batch_size", "data.dir", "optimizer.decay.name"], config)
    with pytest.raises(UserError, match="--config.loss.temperature has no effect: config.loss uses name, off_diagonal"):
        reject_unused(["loss.temperature"], config)
    with pytest.raises(UserError, match="--config.encoder.patch has no effect: config.encoder uses depth, dtype"):
        reject_unused(["encoder.patch"], config)


def test_inputs_are_names_joined_by_plus():
    values = smoke()
    for wrong in ("", "s1+", "s1+s1"):
        values["inputs"] = wrong
        with pytest.raises(UserError, match="config.inputs is .*; expected sensors of the data set joined by"):
            parse(values)
    values["inputs"] = "s1+s2+dem"
    assert parse(values).sensors == ("s1", "s2", "dem")
