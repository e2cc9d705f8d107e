"""Runs a configuration: pre-training, fine-tuning, evaluation or probes.

    python main.py --config=configs/pretrain.py:smoke --workdir=runs/smoke --config.data.dir=DIR
    python main.py --config=configs/finetune.py:water_weak --config.init_from=runs/smoke --workdir=runs/water
    python main.py --config=configs/evaluate.py --config.init_from=runs/smoke
    python main.py --config=configs/probe.py --config.init_from=runs/smoke --workdir=runs/probe

Any key can be overridden, as in --config.batch_size=64. The keys of a configuration and their meaning:

    python main.py --config=configs/pretrain.py:smoke --help

    --debug            show the traceback of an error
    --profile=N        write a trace of N steps to WORKDIR/profile
    --peer_timeout=S   the processes of a run wait S seconds for a silent one
    --version          print the version

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
from ml_collections import config_flags

from dual_encoder.command_line import config_help
from dual_encoder.command_line.config_file import load_config, load_module, named, parse_flags, reject_unused
from dual_encoder.command_line.parser import VERSION
from dual_encoder.config import parse
from dual_encoder.errors import UserError, exit_on_user_error
from dual_encoder.report.page import write_report
from dual_encoder.runtime import compilation_cache, heap, mesh
from dual_encoder.storage import paths
from dual_encoder.tasks.build import AnyConfig, EvaluateConfig
from dual_encoder.training.run import run


def main() -> None:
    """Runs what the command line says. A user's mistake gives one line and exit code 2."""
    asked = set(sys.argv)
    if "--version" in asked:
        print(VERSION)
    elif not sys.argv[1:] or {"--help", "-h", "--helpfull"} & asked:
        exit_on_user_error(lambda: _help(named(sys.argv)), debug="--debug" in asked)
    else:
        exit_on_user_error(lambda: _run(sys.argv), debug="--debug" in asked, leave=mesh.leave)


def _run(arguments: list[str]) -> None:
    """Runs the task that the configuration names."""
    given = _flags(arguments)
    overridden = parse_flags(arguments, given)
    config: AnyConfig = parse(AnyConfig, given.config.to_dict())
    reject_unused(overridden, config)
    if not given.workdir and not isinstance(config, EvaluateConfig):
        raise UserError("--workdir is missing; give a folder for checkpoints, metrics and the report")
    for flag, folder in (("--workdir", given.workdir), ("config.init_from", getattr(config, "init_from", ""))):
        if "://" in folder:
            raise UserError(f"{flag} is '{folder}', a bucket; expected a folder: mount the bucket, or copy it")
    heap.keep()
    cache = compilation_cache.start()
    mesh.start(given.peer_timeout)
    if mesh.is_main_process():
        print(cache, flush=True)
    workdir = paths.anywhere(given.workdir or getattr(config, "init_from", ""))  # `evaluate` may go without one
    with mesh.together():
        run(config, mesh.make(), workdir, profile_steps=given.profile, after_evaluation=write_report)
        if mesh.is_main_process():
            print(f"report: {write_report(workdir)}", flush=True)


def _flags(arguments: list[str]) -> flags.FlagValues:
    """Returns the flags, not yet parsed."""
    given = flags.FlagValues()
    config_flags.DEFINE_config_file("config", help_string="Configuration file, as FILE.py or FILE.py:VARIANT.",
                                    flag_values=given, sys_argv=arguments)
    flags.DEFINE_string("workdir", "", "Folder of the run.", flag_values=given)
    flags.DEFINE_integer("profile", 0, "Steps to trace, from the third on.", lower_bound=0, flag_values=given)
    flags.DEFINE_integer("peer_timeout", 100, "Seconds until a silent process is dead.", lower_bound=1,
                         flag_values=given)
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=given)
    return given


def _help(file: str) -> None:
    """Prints the help on the command; on a configuration, if it is not ''."""
    if not file:
        print(f"{__doc__}\nConfigurations:\n")
        print("\n".join(config_help.files()))
        return
    values = load_config(file)
    if "task" not in values:
        raise UserError(f"--config={file} has no key 'task'; give a configuration such as configs/pretrain.py")
    print(load_module(file).__doc__ or "")
    print(f"The keys of {file}, with their values:")
    print("\n".join(config_help.lines(AnyConfig, values)))


if __name__ == "__main__":
    main()
