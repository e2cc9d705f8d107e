"""The folder of one run: which run it belongs to, and what the run used.

    config.json       the configuration; a folder belongs to one configuration and one data set
    run.json          task, command, versions, devices, data set, sensors, number of parameters
    metrics.jsonl     and tensorboard/: see metrics.py
    checkpoints/      see checkpoint_folder.py
    best/             with data.select_split: the folder checkpoints/ of the state that was chosen so far
    evaluation/       scores, tables (JSON) and pictures (PNG) of the last evaluation: see scores.py
    calibration.json  after `python -m dual_encoder.calibrate`: see calibration.py
    curves/           tables (JSON) of the evaluations that only make curves
    digests.json      of the files that are written whole: see digests.py
    report.html       all of it on one page
    sinks.json        with schedule.log_to: the id of the run there
    lock              names the process that trains, which holds it until it ends
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import jax
from etils import epath

from dual_encoder import __version__
from dual_encoder.config import differences, flatten
from dual_encoder.console import say
from dual_encoder.data.manifest import DatasetInfo
from dual_encoder.data.subsets import GROUPS
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.storage import atomic, files, lock
from dual_encoder.workdir import digests

# Keys that change how a run is executed or logged, but not its result.
_FREE_KEYS = ("data.dir", "data.threads", "data.processes", "data.max_bad_records", "schedule.log_every",
              "schedule.eval_every", "schedule.quick_eval_every", "schedule.quick_eval_records",
              "schedule.train_eval_records", "schedule.checkpoint_every", "schedule.keep",
              "schedule.log_to",
              *(f"knn.{key}" for key in ("every", "dir", "split", "eval_split", "records", "neighbours")))
# Keys that name what a run starts from: the weights of a checkpoint, a file of groups. What was loaded is compared.
_LOADED_KEYS = ("init_from", "init_step", "groups", "data.subset.groups")
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tensorflow-datasets")

BEST = "best"  # folder in the workdir of the state that was chosen
_LEASE = 120  # seconds: NFS gives up the locks of a dead machine after 90


def facts(config: Mapping[str, Any], info: DatasetInfo, sensors: Mapping[str, SensorSpec], start: str = ""
          ) -> dict[str, Any]:
    """Returns the facts that identify a run; its folder and its checkpoints keep them.

    Args:
      config: of the run.
      info: the data set.
      sensors: feature name -> spec in use.
      start: digest of the weights that the run starts from; '' = none.

    Returns:
      JSON values: config, dataset, sensors, loaded, code_version.
    """
    return {"config": dict(config), "dataset": _data_facts(info),
            "sensors": {name: spec.to_json() for name, spec in sensors.items()},
            "loaded": {"init_from": start} | _digests_of_groups(config), "code_version": __version__}


def _digests_of_groups(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns key -> sha256 of the file of groups that it names."""
    flat = flatten(config)
    named = {key: flat[key] for key in ("groups", "data.subset.groups") if flat.get(key)}
    return {key: hashlib.sha256(files.read(path)).hexdigest() for key, path in named.items() if path not in GROUPS}


def check(workdir: epath.Path, ours: Mapping[str, Any],
          as_stored_now: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict) -> None:
    """Creates the folder, or checks that an existing folder belongs to this run.

    Args:
      workdir: of the run.
      ours: `facts` of the run.
      as_stored_now: the configuration of an earlier version -> the same in keys of this one.

    Raises:
      UserError: it is a file, holds a run with another configuration or other data, or cannot be read.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir '{workdir}' is a file; give a folder")
    workdir.mkdir(parents=True, exist_ok=True)
    seen: dict[str, Any] = {}
    for name in ("config.json", "run.json"):
        if not (workdir / name).exists():
            continue
        values = read_json(workdir / name)
        seen |= {"config": values} if name == "config.json" else values
        if fault := digests.fault(workdir, name):
            say(f"--workdir '{workdir}': {fault}; the run goes on if its facts are those of this command, and writes "
                "the file anew")
    compare(f"--workdir '{workdir}' holds a run", seen, ours, as_stored_now)


def compare(holder: str, seen: Mapping[str, Any], ours: Mapping[str, Any],
            as_stored_now: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict) -> None:
    """Compares the facts of a run that was found with those of this run.

    Args:
      holder: the folder or checkpoint that was found; the message starts with it.
      seen: `facts` of the run that was found. Facts that are absent count as equal.
      ours: `facts` of this run.
      as_stored_now: as in `check`.

    Raises:
      UserError: the facts differ.
    """
    try:
        _compare(holder, {**ours, **seen}, ours, as_stored_now, by_path="loaded" not in seen)
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{holder} whose facts are damaged ({type(error).__name__}: {one_line(error)}); restore them, "
                        "or use another workdir") from error


def _compare(holder: str, seen: Mapping[str, Any], ours: Mapping[str, Any],
             as_stored_now: Callable[[Mapping[str, Any]], Mapping[str, Any]], by_path: bool) -> None:
    """Raises UserError if the facts differ; other errors if those of `seen` have another form.

    Earlier versions did not note what they had loaded: `by_path` compares the paths.
    """
    changed = differences(as_stored_now(seen["config"]), ours["config"])
    free = {*_FREE_KEYS, *(() if by_path else _LOADED_KEYS)}
    if ours["config"].get("data", {}).get("select_split"):
        free.remove("schedule.eval_every")  # it says which states there are to choose from
    if changed := {key: values for key, values in changed.items() if key not in free}:
        key, (old, new) = next(iter(changed.items()))
        more = f" (and {len(changed) - 1} more keys)" if len(changed) > 1 else ""
        raise UserError(f"{holder} with config.{key}={old!r}, this run has {new!r}{more}; use another workdir, or the "
                        "same configuration to resume")
    old, new = (run["dataset"]["fingerprint"] for run in (seen, ours))
    if old != new:
        raise UserError(f"{holder} on data with fingerprint {old[:12]}, config.data.dir has {new[:12]}; use another "
                        "workdir, or the same data to resume")
    if changed := differences(seen.get("loaded", {}), ours.get("loaded", {})):
        key, (old, new) = next(iter(changed.items()))
        old, new = (value[:12] if value else "none" for value in (old, new))
        raise UserError(f"{holder} that loaded {old} by config.{key}, this run loads {new} (digests); give what it "
                        f"loaded{', by config.init_step if that run has gone on' * (key == 'init_from')}, or use "
                        "another workdir")
    if changed := differences(seen["sensors"], ours["sensors"]):
        key, (old, new) = next(iter(changed.items()))
        raise UserError(f"{holder} with sensor fact {key}={old}, this run has {new}; use another workdir, or the same "
                        "--config.data.statistics to resume")


@contextlib.contextmanager
def claim(workdir: epath.Path, patience: float = _LEASE) -> Iterator[None]:
    """Locks the folder for this process, which writes to it. Waits for another run to end.

    Args:
      workdir: an existing folder.
      patience: seconds to wait for another run.

    Raises:
      UserError: another run still uses the folder after `patience` seconds.
    """
    path, end, reported = workdir / "lock", time.monotonic() + patience, False
    with contextlib.ExitStack() as stack:
        with atomic.explained(path):
            file = open(path, "a+", errors="replace")
        stack.callback(_close, file)
        while not lock.take(file):
            file.seek(0)
            holder = file.read().strip() or "another process"
            if time.monotonic() >= end:
                raise UserError(f"--workdir '{workdir}' is in use by {holder}; end that run, or use another workdir "
                                f"(if its machine is gone for good, delete '{path}')")
            if not reported:
                say(f"--workdir '{workdir}' is in use by {holder}: waiting up to {patience:.0f} s for it to end")
                reported = True
            time.sleep(0.2)
        with atomic.explained(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}, since {_now()}\n")
            file.flush()
            os.fsync(file.fileno())  # so that other machines can read it
        yield


def _close(file: IO) -> None:
    """Closes a file, which releases its lock, even if its last bytes cannot be written."""
    with contextlib.suppress(OSError):
        file.close()


def record_run(workdir: epath.Path, ours: Mapping[str, Any], parameters: int) -> None:
    """Writes config.json and run.json. Only the main process calls this. The first start keeps its time.

    Args:
      workdir: of the run, after `check`.
      ours: `facts` of the run.
      parameters: number of parameters.
    """
    devices = jax.devices()
    earlier = read_json(workdir / "run.json") if (workdir / "run.json").exists() else {}
    started = earlier.get("started")
    write_json(workdir, "config.json", ours["config"])
    write_json(workdir, "run.json", {
        "task": ours["config"]["task"], "command": " ".join(sys.argv), "versions": versions(),
        "started": started if isinstance(started, str) else _now(), "parameters": parameters,
        "sensors": ours["sensors"], "dataset": ours["dataset"], "loaded": ours.get("loaded", {}),
        "devices": {"platform": devices[0].platform, "count": len(devices), "kind": devices[0].device_kind}})


def _now() -> str:
    """Returns the local time with its offset from UTC, ISO 8601: the machines of a run may be in several zones."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _data_facts(info: DatasetInfo) -> dict[str, Any]:
    """Returns the facts of a data set that a run keeps: the manifest, with record counts instead of shard lists."""
    manifest = info.to_json()
    shards = manifest.pop("shards")
    return manifest | {"records": {split: sum(s["records"] for s in entries) for split, entries in shards.items()}}


def versions() -> dict[str, str]:
    """Returns the versions of this code, Python and the packages that a result depends on."""
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"dual_encoder": __version__, "python": platform.python_version(), **packages}


def read_json(path: epath.Path) -> dict[str, Any]:
    """Reads an object from a JSON file of the workdir; UserError if it is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged ({one_line(error)}); restore it or use another workdir") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is damaged (it holds a {type(values).__name__}, expected an object); restore it or "
                        "use another workdir")
    return values


def write_json(workdir: epath.Path, name: str, values: Any) -> None:
    """Writes a JSON file of the workdir and its digest; after a crash it is complete or absent."""
    digests.write(workdir, name, (json.dumps(values, indent=2) + "\n").encode())
