"""Config files parse into dataclasses; mistakes name the nearest key."""

import json

import pytest

from configs import evaluate, finetune, pretrain
from dual_encoder import config as config_lib
from dual_encoder.errors import UserError


def smoke():
    values = pretrain.get_config("smoke").to_dict()
    return values


@pytest.mark.parametrize("values", [
    *(pretrain.get_config(v).to_dict() for v in ("paper", "smoke", "ombria", "vit", "simclr_s1", "simclr_s2")),
    *(finetune.get_config(v).to_dict() for v in ("flood_ombria", "flood", "flood_vit", "water_weak")),
    evaluate.get_config().to_dict() | {"init_from": "runs/x"},
])
def test_every_variant_parses_and_round_trips(values):
    if "data" in values:
        values["data"]["dir"] = values["data"]["dir"] or "data/x"
    assert config_lib.to_dict(config_lib.parse(values)) == values


def test_the_paper_scale_run_is_what_the_design_says():
    values = pretrain.get_config().to_dict()
    values["data"]["dir"] = "data/x"
    config = config_lib.parse(values)
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
        config_lib.parse(values)


def test_a_missing_key_is_named():
    values = smoke()
    del values["loss"]["temperature"]
    with pytest.raises(UserError, match="'config.loss.temperature' is missing"):
        config_lib.parse(values)


def test_an_integer_serves_as_float():
    values = smoke()
    values["loss"]["temperature"] = 1
    assert config_lib.parse(values).loss.temperature == 1.0


def test_a_tuple_survives_json():
    """config.json and checkpoints have lists."""
    values = smoke()
    values["data"]["weights"] = (1, 0.5)
    config = config_lib.parse(values)
    assert config.data.weights == (1.0, 0.5)
    stored = json.loads(json.dumps(config_lib.to_dict(config)))
    assert config_lib.parse(stored) == config and config_lib.differences(stored, config_lib.to_dict(config)) == {}


def test_differences_lists_changed_leaves():
    old, new = smoke(), smoke()
    new["loss"]["temperature"] = 0.5
    del new["seed"]
    assert config_lib.differences(old, new) == {"loss.temperature": (0.07, 0.5), "seed": (0, None)}
