"""Builds data sets of damaged raw files and judges each outcome. Trial `number` of a layout is always the same one.

An outcome is one of OUTCOMES, or a fault: a text that begins with one of FAULTS.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping

import absl.logging
import numpy as np
from tensorflow_datasets.proto import tf_example_pb2

import data_prep.__main__
import data_prep.build.builder
import data_prep.s1s2_pairs.s1s2_pairs_dataset_builder
import data_prep.s1s2_tiles.s1s2_tiles_dataset_builder  # noqa: F401  imported here, a trial need not
from data_prep.importers import majortom
from tests.fuzz import bombs, damage, hostile, raw_sets
from tests.fuzz.trial import Ended, apart, run_all

OUTCOMES = ("one line", "quarantined", "same", "changed")
FAULTS = ("silent", "exception", "traceback", "killed", "hung", "memory", "outside", "not one line", "exit code")
# Formats with a checksum over their content: a change without a word is a fault. TIFF, HDF5, parquet, LMDB and text
# have none, and one wrong pixel in them cannot be told from a right one.
_CHECKSUMMED = (".npz", ".zip", ".tar", ".png")
_EXCEPTION = re.compile(r"^\w*(Error|Exception|Warning|Interrupt): ")
_SAID = re.compile(r"left out|turned away|unusable|note:|warning")

BOMB = 10**6  # the number of the first bomb; those below are random mutations

Content = Mapping[str, tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Trial:
    """One damaged file of a raw data set: trial `number` of layout `name`; `hostile`: its checksums are right."""

    name: str
    number: int
    file: str
    mutation: str
    hostile: bool


class RawAttack:
    """Attacks the raw data sets, which it writes below `folder` once and builds once as they are."""

    def __init__(self, folder: pathlib.Path, names: Iterable[str] = ()):
        """Prepares the layouts `names`; () = all."""
        absl.logging.set_verbosity(absl.logging.ERROR)
        majortom.SIZE = raw_sets.MAJORTOM_SIZE
        self._folder, self._raw = folder, raw_sets.folders(folder / "raw")
        apart(lambda: raw_sets.write_all(folder / "raw"))
        self.sets = {raw_set.name: raw_set for raw_set in raw_sets.RAW_SETS if not names or raw_set.name in names}
        self._sound: dict[str, Content] = {}
        for name, outcome in self._run((name, -1) for name in self.sets):
            if outcome != "sound":
                raise AssertionError(f"the sound raw data of {name} cannot be built: {outcome}")

    def run(self, trials: Iterable[tuple[str, int]]) -> Iterator[tuple[Trial, str, int]]:
        """Yields each trial of (layout, number), its outcome or fault, and the peak of its memory in bytes."""
        memory: dict[str, int] = {}
        for key, outcome in self._run(trials, memory):
            name, number = key.rsplit("#", 1)
            yield self.describe(name, int(number)), outcome, memory[key]

    def bombs(self) -> list[tuple[str, int]]:
        """Returns the trials that are bombs."""
        return [(bomb.layout, BOMB + i) for i, bomb in enumerate(bombs.BOMBS) if bomb.layout in self.sets]

    def describe(self, name: str, number: int) -> Trial:
        """Returns the facts of a trial."""
        return self._choose(name, number)[0] if number >= 0 else Trial(name, number, "", "none", False)

    def write(self, trial: Trial, raw: pathlib.Path) -> None:
        """Writes the raw folder of a trial: hard links to sound files, and the damaged one."""
        sound = self._raw[trial.name]
        for path in sound.rglob("*"):
            target = raw / path.relative_to(sound)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.relative_to(sound).as_posix() != trial.file:
                os.link(path, target)
        if trial.file:
            make = self._choose(trial.name, trial.number)[1]
            apart(lambda: (raw / trial.file).write_bytes(make()))

    def options(self, name: str) -> list[str]:
        """Returns the arguments of `build` for a layout, without folders."""
        return [f"--importer={self.sets[name].importer}", "--workers=1", "--max-rejected=1000",
                *self.sets[name].options]

    def _choose(self, name: str, number: int) -> tuple[Trial, Callable[[], bytes]]:
        """Returns the facts of a trial, and a function that makes the new content of its file."""
        if number >= BOMB:
            bomb = bombs.BOMBS[number - BOMB]
            path = sorted(self._raw[name].glob(bomb.files))[0]
            return Trial(name, number, self._relative(name, path), bomb.name,
                         True), lambda: bomb.make(path.read_bytes())
        random = np.random.default_rng([zlib.crc32(name.encode()), number])
        files: dict[str, list[pathlib.Path]] = {}
        for path in sorted(path for path in self._raw[name].rglob("*") if path.is_file()):
            files.setdefault(path.suffix, []).append(path)
        group = files[sorted(files)[number % len(files)]]
        path = group[random.integers(len(group))]
        knowing = hostile.mutations(path.name)
        # Half of the trials know the format.
        choice = str(random.choice(list(knowing if knowing and random.random() < 0.5 else damage.DAMAGES)))
        mutation = {**damage.DAMAGES, **knowing}[choice]
        return (Trial(name, number, self._relative(name, path), choice, choice in knowing),
                lambda: mutation(path.read_bytes(), random))

    def _relative(self, name: str, path: pathlib.Path) -> str:
        return path.relative_to(self._raw[name]).as_posix()

    def _run(self, trials: Iterable[tuple[str, int] | tuple[str, int]], memory: dict[str, int] | None = None
             ) -> Iterator[tuple[str, str]]:
        def commands():
            for name, number in trials:
                sandbox = self._folder / "trials" / f"{self._raw[name].name}-{number}"
                shutil.rmtree(sandbox, ignore_errors=True)
                sandbox.mkdir(parents=True)
                trial = self.describe(name, number)
                self.write(trial, sandbox / "raw")
                arguments = ["build", f"--raw={sandbox / 'raw'}", f"--data_dir={sandbox / 'out'}", *self.options(name)]
                keys[sandbox] = name, trial
                yield sandbox, functools.partial(data_prep.__main__.main, arguments)

        keys: dict[pathlib.Path, tuple[str, Trial]] = {}
        for sandbox, ended in run_all(commands()):
            name, trial = keys.pop(sandbox)
            if trial.number < 0:
                outcome = _sound(ended)
                self._sound[name] = content_of(sandbox / "out")
            else:
                outcome = self._judge(trial, ended, sandbox)
            if memory is not None:
                memory[f"{name}#{trial.number}"] = ended.memory
            shutil.rmtree(sandbox)
            yield name if trial.number < 0 else f"{name}#{trial.number}", outcome

    def _judge(self, trial: Trial, ended: Ended, sandbox: pathlib.Path) -> str:
        if ended.fault:
            return ended.fault
        raw = {path.relative_to(self._raw[trial.name]) for path in self._raw[trial.name].rglob("*")}
        new = {path.relative_to(sandbox / "raw") for path in (sandbox / "raw").rglob("*")} - raw
        if new:
            return f"outside: {sorted(map(str, new))[0]} was written into the raw folder"
        rejects = [json.loads(line) for path in (sandbox / "out").rglob("rejected.jsonl")
                   for line in path.read_text().splitlines()]
        for reason in [row["reason"] for row in rejects] + [line.removeprefix("error: ") for line in ended.errors]:
            if _EXCEPTION.match(reason) or "\n" in reason.strip():
                return f"exception: {reason.strip()[:160]!r}"
        if ended.code:
            return "one line"
        sound, seen = self._sound[trial.name], content_of(sandbox / "out")
        if any(sound.get(name) != record for name, record in seen.items()):
            known = trial.hostile or not trial.file.endswith(_CHECKSUMMED)
            return "changed" if known else "silent: other content"
        if sound.keys() == seen.keys():
            return "quarantined" if rejects else "same"
        if rejects or _SAID.search(ended.out + ended.err):
            return "quarantined"
        return "changed" if trial.hostile or not trial.file.endswith(_CHECKSUMMED) else "silent: records are missing"


def _sound(ended: Ended) -> str:
    return "sound" if not ended.fault and not ended.code else ended.fault or ended.err + ended.out


def content_of(folder: pathlib.Path) -> Content:
    """Returns id -> (split, digest of the record) of all finished shards below a folder."""
    content = {}
    for path in sorted(folder.rglob("*.tfrecord-*")):
        if "incomplete." in str(path):
            continue
        blob, start = path.read_bytes(), 0
        while start < len(blob):
            length, = struct.unpack_from("<Q", blob, start)
            payload = blob[start + 12:start + 12 + length]
            example = tf_example_pb2.Example.FromString(payload)
            name = example.features.feature["id"].bytes_list.value[0].decode()
            content[name] = path.name.split("-")[1].split(".")[0], hashlib.sha256(payload).hexdigest()
            start += 16 + length
    return content
