"""Damages files that this project wrote, and judges the commands that read them: a data set, a workdir, an export.

A trial damages one file of a sound folder and runs one command in a forked process. The command must refuse the folder
in one line, or give what it gives for the sound one. What that is a `Target` says.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator

import jax
import numpy as np

import data_prep.__main__
import data_prep.build.verify
import data_prep.look.inspection  # noqa: F401  imported here, a trial need not
import dual_encoder.export.__main__
import dual_encoder.report.__main__
from dual_encoder.errors import exit_on_user_error
from dual_encoder.export import folder as folder_of_export
from tests.fuzz import damage, hostile, raw_attack, raw_sets
from tests.fuzz.trial import Ended, apart, run_all

OUTCOMES = ("found", "same")


@dataclasses.dataclass(frozen=True)
class Target:
    """A folder that this project wrote, and a command that reads it.

    Attributes:
      name: for the table.
      folder: sound; it is copied for each trial.
      command: (copy of the folder, sandbox) -> a function that runs the command.
      result: sandbox -> text that stands for the command's result; called after it ended with 0.
      sound: the results that are right; () = none, the damage must be found.
      names: (sandbox, damaged file) -> whether the result says that the file is damaged.
    """

    name: str
    folder: pathlib.Path
    command: Callable[[pathlib.Path, pathlib.Path], Callable[[], object]]
    result: Callable[[pathlib.Path], str]
    sound: Collection[str]
    names: Callable[[pathlib.Path, str], bool] = lambda sandbox, file: False


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trial `number` of a target: the file that is damaged, and how."""

    name: str
    number: int
    file: str
    mutation: str


def _main(module, *arguments: object) -> Callable[[], object]:
    """Returns a function that runs a module's `main` with a command line."""
    def run() -> None:
        sys.argv = [module.__name__, *map(str, arguments)]
        module.main()
    return run


def mutate(target: Target, number: int, names: Iterable[str] = ()) -> tuple[Trial, bytes]:
    """Returns trial `number` of a target and the new content of its file; `names`: of mutations, () = all that fit."""
    random = np.random.default_rng([zlib.crc32(target.name.encode()), number])
    files = sorted(path for path in target.folder.rglob("*") if path.is_file())
    path = files[number % len(files)]  # a small file as often as a large one
    choices = {name: mutation for name, mutation in {**damage.DAMAGES, **hostile.mutations(path.name)}.items()
               if not names or name in names}
    name = str(random.choice(list(choices)))
    return Trial(target.name, number, path.relative_to(target.folder).as_posix(),
                 name), choices[name](path.read_bytes(), random)


def run(targets: Iterable[Target], numbers: Iterable[int], folder: pathlib.Path, names: Iterable[str] = ()
        ) -> Iterator[tuple[Trial, str, int]]:
    """Yields each trial of the targets, its outcome or fault, and the peak of its memory in bytes.

    `folder`: of the sandboxes; `names`: as in `mutate`.
    """
    known: dict[pathlib.Path, tuple[Target, Trial, bool]] = {}

    def trials() -> Iterator[tuple[pathlib.Path, Callable[[], object]]]:
        for number in numbers:
            for target in targets:
                trial, content = mutate(target, number, names)
                sandbox = folder / f"{zlib.crc32(target.name.encode())}-{number}"  # a comma would be two folders
                shutil.rmtree(sandbox, ignore_errors=True)
                copy = sandbox / "copy"
                shutil.copytree(target.folder, copy)
                same = (copy / trial.file).read_bytes() == content
                (copy / trial.file).write_bytes(content)
                known[sandbox] = target, trial, same
                yield sandbox, target.command(copy, sandbox)

    for sandbox, ended in run_all(trials()):
        target, trial, same = known.pop(sandbox)
        yield trial, "same" if same and not ended.fault else judge(target, trial, ended, sandbox), ended.memory
        shutil.rmtree(sandbox)


def judge(target: Target, trial: Trial, ended: Ended, sandbox: pathlib.Path) -> str:
    """Returns the outcome of a trial, one of OUTCOMES, or its fault, see `raw_attack.FAULTS`."""
    if ended.fault:
        return ended.fault
    if ended.code:
        return "found"
    if target.result(sandbox) in target.sound:
        return "same"
    if target.names(sandbox, trial.file):
        return "found"
    return "silent: the damage is not found" if not target.sound else "silent: another result"


def data_set(folder: pathlib.Path, layout: str = "GeoTIFF by table") -> pathlib.Path:
    """Builds a data set of a raw layout below `folder`; returns its folder."""
    (raw := folder / "raw").mkdir(parents=True)
    chosen = next(raw_set for raw_set in raw_sets.RAW_SETS if raw_set.name == layout)
    apart(lambda: chosen.write(raw))
    apart(lambda: data_prep.__main__.main(["build", f"--importer={chosen.importer}", f"--raw={raw}",
                                           f"--data_dir={folder / 'data'}", "--workers=1",
                             "--num-shards=2", *chosen.options]))
    return next(path.parent for path in (folder / "data").rglob("manifest.json"))


def of_data_set(folder: pathlib.Path) -> list[Target]:
    """Returns the targets of a data set: every damage is to be found by `verify`; reading gives the same records."""
    def verify(copy: pathlib.Path, sandbox: pathlib.Path) -> Callable[[], object]:
        return functools.partial(data_prep.__main__.main, ["verify", str(copy), "--workers=1"])

    def inspect(copy: pathlib.Path, sandbox: pathlib.Path) -> Callable[[], object]:
        return functools.partial(read_all, copy, sandbox / "content")

    sound = folder.parent / "content"
    apart(lambda: read_all(folder, sound))
    return [Target("data set, verify", folder, verify, lambda sandbox: "sound", ()),
            # Training reads these files and no others; the rest is for TFDS and for people.
            Target("data set, reading", folder, inspect, lambda sandbox: (sandbox / "content").read_text(),
                   (sound.read_text(),))]


def read_all(folder: pathlib.Path, out: pathlib.Path) -> None:
    """Reads a data set as training does; writes a digest of its facts and records to `out`; exits as main.py."""
    from dual_encoder.data.manifest import load_info
    from dual_encoder.data.records import Records
    from dual_encoder.errors import exit_on_user_error

    def read() -> None:
        digest, info = hashlib.sha256(), load_info(folder)
        digest.update(json.dumps({name: spec.to_json() for name, spec in info.sensors.items()},
                                 sort_keys=True).encode())
        for split in sorted(info.shards):
            records = Records(folder, split, tuple(sorted(info.tensors)))
            for number in range(len(records)):
                for name, value in sorted(records[number].items()):
                    digest.update(name.encode() + np.asarray(value).tobytes())
        out.write_text(digest.hexdigest())
    exit_on_user_error(read, False)


def of_workdir(workdir: pathlib.Path) -> list[Target]:
    """Returns the targets of a workdir: the export of its encoder, of any of its steps, and its report."""
    jax.config.update("jax_platforms", "cpu")

    def export(copy: pathlib.Path, sandbox: pathlib.Path) -> Callable[[], object]:
        return _main(dual_encoder.export.__main__, f"--workdir={copy}", "--sensor=s2", f"--out={sandbox / 'export'}")

    def report(copy: pathlib.Path, sandbox: pathlib.Path) -> Callable[[], object]:
        return _main(dual_encoder.report.__main__, f"--workdir={copy}")

    def page(sandbox: pathlib.Path) -> str:
        return (sandbox / "copy" / "report.html").read_text()

    def sound_page() -> str:
        with _sandboxes(workdir.parent / "sound") as folder:
            shutil.copytree(workdir, folder / "copy")
            for _, ended in run_all([(folder, report(folder / "copy", folder))]):
                assert not ended.code, ended
            return page(folder)

    def named(sandbox: pathlib.Path, file: str) -> bool:
        name = pathlib.PurePath(file).name
        return page(sandbox).count(name) > sound.count(name)

    sound = sound_page()
    steps = [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()]
    weights = []
    with _sandboxes(workdir.parent / "sound") as folder:
        for step in steps:
            arguments = [f"--workdir={workdir}", "--sensor=s2", f"--out={folder / step / 'export'}", f"--step={step}"]
            (folder / step).mkdir()
            for _, ended in run_all([(folder / step, _main(dual_encoder.export.__main__, *arguments))]):
                assert not ended.code, ended
            weights.append(_weights(folder / step))
    return [Target("workdir, export", workdir, export, _weights, tuple(weights)),
            Target("workdir, report", workdir, report, page, (sound,), named)]


def of_export(folder: pathlib.Path) -> list[Target]:
    """Returns the targets of an export: the digests, which `python -m dual_encoder.export --check` compares first.

    They must find every damage. The proof that follows needs the programs of the format, which are not installed here.
    """
    def check(copy: pathlib.Path, sandbox: pathlib.Path) -> Callable[[], object]:
        return lambda: exit_on_user_error(lambda: folder_of_export.check(copy), debug=False)

    return [Target("export, --check", folder, check, lambda sandbox: "sound", ())]


def _weights(sandbox: pathlib.Path) -> str:
    files = sorted((sandbox / "export").glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else "no export"


class _sandboxes:
    """A folder that is empty at first and gone at the end."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def __enter__(self) -> pathlib.Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.makedirs(self._folder)
        return self._folder

    def __exit__(self, *error: object) -> None:
        shutil.rmtree(self._folder)


FAULTS = raw_attack.FAULTS
