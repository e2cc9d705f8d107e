"""Checkpoints of a run: saved, restored, and read as models.

    WORKDIR/checkpoints/<step>    see checkpoint_folder.py
    WORKDIR/damaged/<step>        checkpoints that did not match their digests
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dual_encoder.console import say
from dual_encoder.errors import UserError, one_line
from dual_encoder.imagery.sensors import SensorSpec
from dual_encoder.runtime import backend
from dual_encoder.runtime import mesh as mesh_lib
from dual_encoder.state import TrainState
from dual_encoder.workdir import checkpoint_folder
from dual_encoder.workdir.folder import BEST, compare


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """The model of a checkpoint, for use outside training.

    Attributes:
      step: of the checkpoint.
      variables: {'params', 'batch_stats'}, nested dictionaries of numpy arrays; averaged values if the run kept them.
      config: of the run, nested dictionaries.
      sensors: feature name -> spec with the statistics that images were normalised with.
      dataset: name, config, version, source and fingerprint of the training data.
      code_version: of dual_encoder.
    """

    step: int
    variables: Mapping[str, Any]
    config: Mapping[str, Any]
    sensors: Mapping[str, SensorSpec]
    dataset: Mapping[str, Any]
    code_version: str

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 of all variables, hexadecimal."""
        return digest_of(self.variables)

    @property
    def origin(self) -> dict[str, Any]:
        """What a product of the model states about its training, as JSON values."""
        dataset = {key: self.dataset[key] for key in ("name", "config", "version", "fingerprint", "source")}
        return {"step": self.step, "code_version": self.code_version, "dataset": dataset}

    def image_size(self, name: str = "") -> int:
        """Returns the side in pixels of the training images: of the crop, or of the image `name` ('' = the first)."""
        tensors = self.dataset["tensors"]
        whole = tensors[name if name in tensors else next(iter(self.sensors))]["shape"][0]
        return self.config["augment"]["crop"] or whole


def digest_of(variables: Any, sensors: Mapping[str, SensorSpec] | None = None) -> str:
    """Returns the sha256 of names, types, shapes and values of arrays, and of sensors, hexadecimal.

    Args:
      variables: nested dictionaries of arrays.
      sensors: feature name -> spec; None: of the arrays alone.
    """
    sums = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        sums.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n".encode())
        sums.update(np.asarray(leaf).tobytes())
    if sensors is not None:
        sums.update(json.dumps({name: spec.to_json() for name, spec in sorted(sensors.items())}).encode())
    return sums.hexdigest()


class Checkpoints:
    """Saves and restores the checkpoints of one run.

    Args:
      workdir: of the run.
      keep: number of newest checkpoints to keep.
      facts: of the run, as `folder.facts` returns them; stored with each checkpoint.
      as_stored_now: as in `folder.check`.
    """

    def __init__(self, workdir: epath.PathLike, keep: int, facts: Mapping[str, Any],
                 as_stored_now: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict):
        self._workdir, self._facts, self._as_stored_now = epath.Path(workdir), dict(facts), as_stored_now
        self._manager, self._any_aside = checkpoint_folder.manager(self._workdir, keep), False
        self._saver = concurrent.futures.ThreadPoolExecutor(1)
        self._saving: concurrent.futures.Future | None = None

    def save(self, step: int, state: TrainState) -> None:
        """Saves in the background. The checkpoint counts when its files and their digests are complete.

        An error of this save is raised by the next call of `save`, `wait` or `close`. A step that is there already is
        not saved again.

        Args:
          step: number of updates so far.
          state: of that step.

        Raises:
          UserError: too little space, or the save before this one failed.
        """
        self.wait()
        if step in self._manager.all_steps():
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._workdir).free
        if free < needed:
            raise UserError(f"the disk of '{self._workdir}' has {free / 1e6:.0f} MB free, checkpoint {step} needs "
                            f"{needed / 1e6:.0f} MB; older checkpoints are untouched: make room and run the same "
                            "command again")
        self._manager.save(step, args=ocp.args.Composite(
            model=ocp.args.PyTreeSave(state.model), optimizer=ocp.args.PyTreeSave(_rest(state)),
            facts=ocp.args.JsonSave(self._facts)))
        self._saving = self._saver.submit(self._manager.wait_until_finished)

    def wait(self) -> None:
        """Returns when the last save is complete; UserError if it failed, for example on a full disk."""
        saving, self._saving = self._saving, None
        if saving is None:
            return
        try:
            saving.result()
        except Exception as error:
            raise UserError(f"a checkpoint could not be saved to '{self._workdir}': {one_line(error)}; older "
                            "checkpoints are untouched: make room and run the same command again") from error

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps: the run goes on from `step` and makes them again."""
        for later in self._manager.all_steps():
            if later > step:
                self._manager.delete(later)

    def close(self) -> None:
        """Waits for the last save and releases the threads."""
        try:
            self.wait()
        finally:
            self._saver.shutdown()
            with contextlib.suppress(Exception):  # Orbax repeats the failure that wait() reported
                self._manager.close()

    def restore(self, state: TrainState) -> TrainState | None:
        """Returns the newest checkpoint that matches its digests, or None if there is no checkpoint.

        Moves damaged checkpoints to WORKDIR/damaged and prints a line for each. A checkpoint of an earlier version may
        lack digests; it gets them if it can be read.

        Args:
          state: a new state with the structure, shapes and shardings to restore to.

        Raises:
          UserError: checkpoints exist and none of them is sound, or they belong to another run.
        """
        while True:
            step = mesh_lib.agree(self._newest_sound() if mesh_lib.is_main_process() else 0)
            self._manager.reload()
            if step < 0:
                return None
            folder = self._workdir / "checkpoints" / str(step)
            proven = checkpoint_folder.digests_file(self._workdir, step) is not None
            try:
                restored = self._read(step, state)
            except (UserError, jax.errors.JaxRuntimeError):
                raise
            except Exception as error:  # Orbax raises many types; digests exclude bit rot
                if "structures do not match" in str(error):
                    raise UserError(
                        f"checkpoint {step} of '{self._workdir}' was written by a version whose optimizer had another "
                        "state; it cannot be resumed, but evaluated, exported, and started from: give another workdir "
                        f"and --config.init_from='{self._workdir}'") from error
                if proven or not mesh_lib.is_alone():
                    raise UserError(f"checkpoint {step} of '{self._workdir}' cannot be read ({one_line(error)}); move "
                                    f"'checkpoints/{step}' away, and the same command goes on from an older one"
                                    ) from error
                self._set_aside(step, f"it has no digests and cannot be read: {one_line(error)}")
                continue
            if not proven and mesh_lib.is_main_process():
                checkpoint_folder.write_digests(folder)
            return restored

    def _newest_sound(self) -> int:
        """Returns the newest sound step, or -1 if there is no checkpoint; moves damaged checkpoints aside."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            fault = checkpoint_folder.fault(self._workdir, step)
            if fault is None:
                return step
            self._set_aside(step, fault)
        if self._any_aside:
            raise UserError(f"no checkpoint of '{self._workdir}' matches its digests; they were moved to "
                            f"'{self._workdir / 'damaged'}'; the same command now starts from step 0")
        return -1

    def _set_aside(self, step: int, fault: str) -> None:
        """Moves a damaged checkpoint out of the way, with a line that says so."""
        folder = self._workdir / "damaged"
        folder.mkdir(parents=True, exist_ok=True)
        aside = next(path for number in itertools.count()
                     if not (path := folder / (f"{step}.{number}" if number else str(step))).exists())
        (self._workdir / "checkpoints" / str(step)).rename(aside)
        (self._workdir / "digests" / f"{step}.json").unlink(missing_ok=True)
        self._manager.reload()
        self._any_aside = True
        say(f"checkpoint {step} is damaged ({fault}); moved to '{aside}', falling back to an older one")

    def _read(self, step: int, state: TrainState) -> TrainState:
        facts = self._manager.restore(step, args=ocp.args.Composite(facts=ocp.args.JsonRestore()))["facts"]
        compare(f"checkpoint {step} of '{self._workdir}' is of a run", facts, self._facts, self._as_stored_now)
        seen, ours = (_shapes(tree) for tree in (self._manager.item_metadata(step)["model"], state.model))
        if different := sorted(name for name in seen | ours if seen.get(name) != ours.get(name)):
            name = different[0]
            raise UserError(f"checkpoint {step} of '{self._workdir}' does not fit this model: {name} has shape "
                            f"{seen.get(name)}, here {ours.get(name)}; use another workdir, or dual_encoder "
                            f"{facts['code_version']} that wrote it")
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        restored = self._manager.restore(step, args=ocp.args.Composite(
            model=checkpoint_folder.restore_to(target.model), optimizer=checkpoint_folder.restore_to(_rest(target))))
        model, rest = restored["model"], restored["optimizer"]
        return TrainState(step=rest["step"], opt_state=rest["opt_state"], **rest.get("trained", model),
                          average=model if "trained" in rest else {})


def _shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(model)}


def _rest(state: TrainState) -> dict[str, Any]:
    """Returns the part of the state that a checkpoint holds in addition to `state.model`."""
    rest = {"step": state.step, "opt_state": state.opt_state}
    if state.average:
        rest["trained"] = {"params": state.params, "batch_stats": state.batch_stats}
    return rest


def load_model(workdir: epath.PathLike, step: int | None = None) -> LoadedModel:
    """Reads the model of a checkpoint to host memory, on any number of devices.

    Args:
      workdir: of a run.
      step: of the checkpoint; None takes the state that the run chose (`data.select_split`), whose scores are those of
        the run; of a run without a choice, the newest that matches its digests.

    Raises:
      UserError: no such workdir or step, or a damaged checkpoint.
    """
    backend.check()
    workdir = epath.Path(workdir)
    if not (workdir / "checkpoints").exists():
        raise UserError(f"'{workdir}' holds no checkpoints; give the --workdir of a pre-training run")
    best = workdir / BEST
    if (best / "checkpoints").exists() and (step is None or not _holds(workdir, step) and _holds(best, step)):
        workdir = best
    manager = checkpoint_folder.manager(workdir, None)
    try:
        steps = sorted(manager.all_steps(), reverse=True)
        if step is not None and step not in steps:
            raise UserError(f"'{workdir}' has no checkpoint of step {step}; it has {sorted(steps)}")
        faults = []
        for candidate in ([step] if step is not None else steps):
            if fault := checkpoint_folder.fault(workdir, candidate):
                faults.append(fault)
                continue
            try:
                return _load(manager, candidate)
            except (jax.errors.JaxRuntimeError, MemoryError):
                raise
            except Exception as error:  # Orbax raises many types
                faults.append(f"checkpoint {candidate} cannot be read ({type(error).__name__}: {one_line(error)})")
        reason = faults[0] if faults else "there is none yet"
        raise UserError(f"no usable checkpoint in '{workdir}': {reason}; resume the run or choose another step")
    finally:
        manager.close()


def _holds(workdir: epath.Path, step: int) -> bool:
    return (workdir / "checkpoints" / str(step)).exists()


def _load(manager: ocp.CheckpointManager, step: int) -> LoadedModel:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=sharding),
                          manager.item_metadata(step)["model"])
    restored = manager.restore(step, args=ocp.args.Composite(
        model=checkpoint_folder.restore_to(target), facts=ocp.args.JsonRestore()))
    facts = restored["facts"]
    return LoadedModel(
        step=step, variables=jax.tree.map(np.asarray, restored["model"]), config=facts["config"],
        sensors={name: SensorSpec.from_json(spec) for name, spec in facts["sensors"].items()},
        dataset=facts["dataset"], code_version=facts["code_version"])
