"""Runs a configuration: pre-training, fine-tuning or evaluation.

    python main.py --config=configs/pretrain.py:smoke --workdir=runs/smoke --config.data.dir=DIR
    python main.py --config=configs/finetune.py:water_weak --config.init_from=runs/smoke --workdir=runs/water
    python main.py --config=configs/evaluate.py --config.init_from=runs/smoke

Each file in configs/ names its variants and keys; any key is overridden as --config.batch_size=64. --debug shows the
traceback of an error; --profile=N writes a trace of N steps to WORKDIR/profile; --peer_timeout=S is how long processes
of one run wait for a silent one. The only file with flags. Exit codes: 0 done, 2 a mistake that one line on stderr
explains, 75 stopped by a signal and saved (run the same command again), 76 another process of the run is dead, 130
interrupted before it could save, 134 ended by JAX as another process is silent, 1 anything else, with a traceback.
"""

import sys

import jax
from absl import flags
from etils import epath
from ml_collections import config_flags

from dual_encoder.command_line import parse_flags
from dual_encoder.config import DataConfig, EvaluateConfig, FinetuneConfig, PretrainConfig, parse, to_dict
from dual_encoder.data.manifest import load_sensors
from dual_encoder.data.records import Records
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.report.page import write_report
from dual_encoder.runtime import compilation_cache, heap, mesh
from dual_encoder.state import TrainState
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.tasks.segment import Finetune
from dual_encoder.training import loop
from dual_encoder.training.evaluate import evaluator
from dual_encoder.workdir import folder as workdir_lib
from dual_encoder.workdir.checkpoint import LoadedModel, load_model
from dual_encoder.workdir.scores import save_evaluation, summary

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file, as FILE.py or FILE.py:VARIANT.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Folder of the run.")
_PROFILE = flags.DEFINE_integer("profile", 0, "Steps to trace, from the third on.", lower_bound=0)
_PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", 100, "Seconds until a silent process is dead.", lower_bound=1)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def main() -> None:
    """Runs the task that the configuration names."""
    if not sys.argv[1:] or {"--help", "-h", "--helpfull"} & set(sys.argv):
        print(__doc__)
        return
    parse_flags(sys.argv, flags.FLAGS)
    config = parse(_CONFIG.value.to_dict())
    if not _WORKDIR.value and not isinstance(config, EvaluateConfig):
        raise UserError("--workdir is missing; give a folder for checkpoints, metrics and the report")
    for flag, folder in (("--workdir", _WORKDIR.value), ("config.init_from", getattr(config, "init_from", ""))):
        if "://" in folder:
            raise UserError(f"{flag} is '{folder}', a bucket; expected a folder: mount the bucket, or copy it")
    heap.keep()
    cache = compilation_cache.start()
    mesh.start(_PEER_TIMEOUT.value)
    if mesh.is_main_process():
        print(cache, flush=True)
    with mesh.together():
        {PretrainConfig: _pretrain, FinetuneConfig: _finetune, EvaluateConfig: _evaluate}[type(config)](config)


def _pretrain(config: PretrainConfig) -> None:
    records, eval_records = _open(config.data, tuple(config.inputs.split("+")))
    devices = mesh.make()
    task = Pretrain(config, load_sensors(records.info, config.data.statistics), devices)
    loop.fit(config, task, records, eval_records, devices, epath.Path(_WORKDIR.value), _PROFILE.value)


def _finetune(config: FinetuneConfig) -> None:
    features = (*config.inputs.split("+"), "label")
    records, eval_records = _open(config.data, features)
    if config.init_from:
        model = _load(config.init_from, config.init_step)
        sensors = {name: _checked(model, name, records) for name in config.inputs.split("+")}
        pretrained = model.variables
    else:
        sensors, pretrained = load_sensors(records.info, config.data.statistics), None
    task = Finetune(config, sensors, records, pretrained)
    loop.fit(config, task, records, eval_records, mesh.make(), epath.Path(_WORKDIR.value), _PROFILE.value)


def _evaluate(config: EvaluateConfig) -> None:
    model = _load(config.init_from, config.init_step)
    trained = parse(model.config)
    if not isinstance(trained, PretrainConfig):
        raise UserError(f"config.init_from '{config.init_from}' is a {trained.task} run; give a pre-training run")
    split = config.split or trained.data.eval_split
    inputs = tuple(trained.inputs.split("+"))
    records = Records(config.data_dir or trained.data.dir, split, inputs,
                      max_bad_records=trained.data.max_bad_records, partial=True)
    task = Pretrain(trained, {name: _checked(model, name, records) for name in inputs})
    workdir = epath.Path(_WORKDIR.value or config.init_from)
    own = records.info.fingerprint == model.dataset["fingerprint"] and split == trained.data.eval_split
    if not own and workdir == epath.Path(config.init_from):
        raise UserError(f"split '{split}' of '{records.parts[0].folder}' is not what the run evaluates itself on "
                        f"(split '{trained.data.eval_split}' of its own data); give another --workdir for these scores")
    devices = mesh.make()
    state = jax.device_put(TrainState(step=model.step, params=model.variables["params"],
                                      batch_stats=model.variables["batch_stats"], opt_state=(), average={}),
                           mesh.replicated(devices))
    evaluation = evaluator(task, records, config.batch_size, devices)(state)
    if mesh.is_main_process():
        if workdir != epath.Path(config.init_from):
            facts = workdir_lib.facts(to_dict(config), records.info, task.sensors)
            workdir_lib.check(workdir, facts)
            workdir_lib.record_run(workdir, facts, sum(leaf.size for leaf in jax.tree.leaves(state.params)))
        save_evaluation(workdir, model.step, evaluation)
        print(f"checkpoint {model.step}, data set '{records.info.config}', split '{split}', one record per place")
        print(summary(evaluation.scores()))
        print(f"report: {write_report(workdir)}")


def _open(data: DataConfig, features: tuple[str, ...]) -> tuple[Records, Records]:
    """Returns the records to train on and those to evaluate on."""
    records = Records(data.dir, data.split, features, weights=data.weights, max_bad_records=data.max_bad_records)
    eval_records = Records(data.dir, data.eval_split, features, max_bad_records=data.max_bad_records, partial=True)
    if not len(eval_records):
        raise UserError(f"split '{data.eval_split}' of '{data.dir}' has no records; choose another "
                        "--config.data.eval_split")
    return records, eval_records


def _load(workdir: str, step: int) -> LoadedModel:
    return load_model(workdir, None if step < 0 else step)


def _checked(model: LoadedModel, name: str, records: Records) -> SensorSpec:
    """Returns the checkpoint's spec of a sensor, once the data set is known to store the same bands and unit."""
    if name not in model.sensors:
        raise UserError(f"the checkpoint has no sensor '{name}', it has {sorted(model.sensors)}; choose other inputs")
    model.sensors[name].check_matches(records.info.sensors[name], f"data set '{records.parts[0].folder}'",
                                      "the checkpoint")
    return model.sensors[name]


if __name__ == "__main__":
    exit_on_user_error(main, debug="--debug" in sys.argv, leave=mesh.leave)
