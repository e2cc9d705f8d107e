"""Runs a configuration: pre-training, fine-tuning, evaluation or probes.

    python main.py --config=configs/pretrain.py:smoke --workdir=runs/smoke --config.data.dir=DIR
    python main.py --config=configs/finetune.py:water_weak --config.init_from=runs/smoke --workdir=runs/water
    python main.py --config=configs/evaluate.py --config.init_from=runs/smoke
    python main.py --config=configs/probe.py --config.init_from=runs/smoke --workdir=runs/probe

Each file in configs/ names its variants and keys. Any key can be overridden, as in --config.batch_size=64.

    --debug            show the traceback of an error
    --profile=N        write a trace of N steps to WORKDIR/profile
    --peer_timeout=S   the processes of a run wait S seconds for a silent one

Exit codes:

    0    done
    1    an unexpected error, with a traceback
    2    a mistake of the user, which one line on stderr explains
    75   stopped by a signal and saved: run the same command again
    76   another process of the run is dead
    130  interrupted before the run could save
    134  ended by JAX because another process is silent
"""

import sys

from absl import flags
from etils import epath
from ml_collections import config_flags

from dual_encoder.command_line import parse_flags, reject_unused
from dual_encoder.config import parse
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.report.page import write_report
from dual_encoder.runtime import compilation_cache, heap, mesh
from dual_encoder.tasks.build import AnyConfig, EvaluateConfig
from dual_encoder.training.run import run

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
    overridden = parse_flags(sys.argv, flags.FLAGS)
    config: AnyConfig = parse(AnyConfig, _CONFIG.value.to_dict())
    reject_unused(overridden, config)
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
    workdir = epath.Path(_WORKDIR.value or getattr(config, "init_from", ""))  # `evaluate` may go without one
    with mesh.together():
        run(config, mesh.make(), workdir, profile_steps=_PROFILE.value, after_evaluation=write_report,
            overridden=overridden)
        if mesh.is_main_process():
            print(f"report: {write_report(workdir)}", flush=True)


if __name__ == "__main__":
    exit_on_user_error(main, debug="--debug" in sys.argv, leave=mesh.leave)
