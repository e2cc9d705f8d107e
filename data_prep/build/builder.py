"""The shared part of both TFDS builders: the way from a raw folder to a finished data set."""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep import importers, turned_away
from data_prep.build import exclusion, finish, plan, shards, summary, workers
from data_prep.build.config import Config
from data_prep.build.doubts import Doubts
from data_prep.pairing import GapHistogram
from data_prep.record import patches, timed
from dual_encoder.data import digests
from dual_encoder.errors import UserError, one_line
from dual_encoder.storage import atomic, lock

REJECTED = "rejected.jsonl"
_DOUBTED = "doubted.json"  # rules that stopped the build
ASKED = "build.json"  # the options that decided the bytes
_TEXTS = ("licence", "attribution", "notes")  # of a data set; a later version may word them in another way
_OVERHEAD = 512  # bytes of a record in addition to its tensors, more or less


@dataclasses.dataclass(frozen=True)
class How:
    """Options of a build that change no byte of the result, except through `shards`.

    Attributes:
      workers: processes of this machine.
      shards: number of shards of each split; 0 = as TFDS chooses (64 MiB to 1 GiB each).
      max_rejected: more unusable records stop the build; -1 = 10, or 1 % of the entries if that is more.
      beam: options of a Beam pipeline to use instead of workers; None = no Beam.
      accepted: rules of plausibility that many images may break; see `imagery.plausibility`.
    """

    workers: int = 1
    shards: int = 0
    max_rejected: int = -1
    beam: Sequence[str] | None = None
    accepted: tuple[str, ...] = ()


class _Info(tfds.core.DatasetInfo):
    """Facts of a data set that is only here."""

    def initialize_from_bucket(self) -> None:
        """Does nothing. TFDS would ask its public bucket for our data set, and leave an empty folder in /tmp."""


class ShardBuilder(tfds.core.dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[call-arg]
    # TFDS has no stubs here, so mypy does not find the `__init_subclass__` with `skip_registration`.
    """A TFDS builder that writes with our own workers. Subclasses set KIND, VERSION and configs.

    A build lives in <config folder>/incomplete.<version>/ until it is finished: data/ (shards), notes/ (on finished
    shards), plan/. After a killed build, the same command continues it.
    """

    KIND = ""  # 'pairs' or 'tiles'
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Name the raw data's folder with --manual_dir. Its layout is in the docstring of data_prep/importers/<importer>.py.
    """

    @classmethod
    def of(cls, config: Config, data_dir: str) -> "ShardBuilder":
        """Returns a builder of any config, also of one with the name of another in BUILDER_CONFIGS.

        Raises:
          UserError: the data set has been built, and one of its small files is damaged.
        """
        only = type(cls.__name__, (cls,), {"name": cls.name, "BUILDER_CONFIGS": [config], "__module__": cls.__module__},
                    skip_registration=True)
        folder = pathlib.Path(data_dir, cls.name, config.name, str(cls.VERSION))
        digests.check(folder)
        try:
            return only(data_dir=data_dir, config=config.name)
        except Exception as error:  # TFDS raises many types for damaged files of a data set without digests
            if not folder.exists():
                raise
            raise UserError(f"data set '{folder}' cannot be opened ({type(error).__name__}: {one_line(error)}); "
                            "restore its JSON files, or delete the folder to build it anew") from error

    def _info(self) -> tfds.core.DatasetInfo:
        config: Config = self.builder_config
        features: dict[str, Any] = {
            name: _tensor((config.size, config.size, len(spec.bands)), spec.dtype)
            for name, spec in config.specs.items()}
        facts = config.facts()
        if self.KIND == "tiles":
            label = config.label_spec
            features["label"] = _tensor(label.shape(config.size), label.dtype)
            facts["label"] = label.to_json()
        tensors = {name: {"dtype": np.dtype(feature.np_dtype).name, "shape": list(feature.shape)}
                   for name, feature in features.items()}
        features |= {name: tfds.features.Text() for name in shards.TEXTS}
        features |= {name: tfds.features.Scalar(np.int64) for name in shards.integers(config.sensors)}
        features |= {name: tfds.features.Scalar(np.float32) for name in shards.FLOATS}
        words = self.get_metadata()
        return _Info(
            builder=self, description=words.description, citation=words.citation,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict({finish.FACTS: {
                "name": self.name, "config": config.name, "version": str(self.version), "tensors": tensors, **facts}}))

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        raise NotImplementedError("download_and_prepare is overridden as a whole")

    def download_and_prepare(self, *, download_dir=None, download_config=None, file_format=None, **_: Any) -> None:
        """Builds from download_config.manual_dir, by Beam if its options are given; `tfds build` calls this."""
        if str(file_format or "tfrecord").split(".")[-1].lower() != "tfrecord":
            raise UserError(f"--file_format={file_format}: these builders write tfrecord only; leave the option out")
        options = download_config or tfds.download.DownloadConfig()
        beam = options.beam_options.get_all_options(drop_default=True) if options.beam_options else None
        raw = options.manual_dir or os.path.join(download_dir or self._data_dir_root, "manual")
        self.build(pathlib.Path(raw), How(
            shards=options.num_shards or 0,
            beam=None if beam is None else [f"--{name}={value}" for name, value in beam.items()]))

    def build(self, raw: pathlib.Path, how: How) -> None:
        """Builds the data set from the raw folder, or continues a build that was stopped.

        Raises:
          UserError: raw data without a record, too many unusable records, a full disk, another build at work.
        """
        facts = self._facts(raw, how)
        final = pathlib.Path(self.data_path)
        work = final.parent / f"incomplete.{final.name}"
        if not self.is_prepared():
            work.mkdir(parents=True, exist_ok=True)
            with _alone(work):
                if not self.is_prepared():  # another build may just have ended
                    self._build(raw, how, facts, work, final)
        try:
            built = dict(json.loads((final / ASKED).read_bytes()))
        except (OSError, TypeError, ValueError) as error:
            raise UserError(f"'{final / ASKED}' is missing or damaged ({one_line(error)}); restore it, or delete "
                            f"'{final}' to build the data set anew") from error
        if other := _differences(built, facts):
            raise UserError(f"'{final}' was built otherwise: {other}; delete that folder to build it anew, or give "
                            "another --name")
        shutil.rmtree(work, ignore_errors=True)
        self.info.read_from_directory(final)

    def _build(self, raw: pathlib.Path, how: How, facts: dict[str, Any], work: pathlib.Path, final: pathlib.Path
               ) -> None:
        _start_anew_after_doubts(work, how.accepted)
        for name in ("data", "notes", "plan"):
            (work / name).mkdir(exist_ok=True)
        for leftover in work.glob("*/.*.tmp"):  # of a killed worker
            leftover.unlink()
        (work / "faults.jsonl").unlink(missing_ok=True)
        made = self._plan(work, raw, facts)
        job = self._job(work / "data", raw, facts["kind"], made, how)
        _check_space(job, made, self._record_bytes())
        exclusion.prepare(made.folder, job.exclude, job.specs, how.workers)
        run = workers.run(job, made, how.workers) if how.beam is None else workers.run_beam(job, made, how.beam)
        doubts = _join_doubts(run)
        _stop_at_doubts(work, doubts, how.accepted)
        self._finish(job, made, run, doubts)
        (work / "data").rename(final)

    def _facts(self, raw: pathlib.Path, how: How) -> dict[str, Any]:
        """Returns the options that decide the bytes: only a build with equal ones is continued or taken as finished."""
        config: Config = self.builder_config
        kind = "pairs" if config.labels == shards.WATER_WEAK else self.KIND
        return {"raw": str(raw.resolve()), "kind": kind, "shards": how.shards,
                "sensors": dict(config.sensors), "size": config.size, "block_degrees": config.block_degrees,
                **config.facts()["source"]}

    def _plan(self, work: pathlib.Path, raw: pathlib.Path, facts: dict[str, Any]) -> plan.Plan:
        config: Config = self.builder_config
        made = plan.load(work / "plan")
        started = any((work / "notes").iterdir())
        if made and started and _is_described_anew(made.facts, facts):
            print(f"the description of the raw data changed: the build in '{work}', which was stopped, starts anew",
                  flush=True)
            for name in ("data", "notes", "plan"):
                shutil.rmtree(work / name)
                (work / name).mkdir()
            made = None
        if made and started and (other := _differences(made.facts, facts)):
            raise UserError(f"'{work}' is a build that was stopped and differs: {other}; repeat its options, delete "
                            "that folder, or give another --name")
        if made and started:
            print(f"going on with a build that was stopped, by the list of raw files that it made: {work}", flush=True)
            return made

        def count_shards(entries: int) -> int:
            count = facts["shards"] or tfds.core.utils.shard_utils.ShardConfig().get_number_shards(
                entries * patches(config.raw_size, config.size) * self._record_bytes(), entries)
            return min(count, entries)

        labels = "" if config.labels == shards.WATER_WEAK else config.labels
        importer = importers.open_raw(config.importer, raw, facts["kind"], config.sensors, labels)
        return plan.make(work / "plan", importer.entries(), facts, split_by=config.split_by, filters=config.filters,
                         block_degrees=config.block_degrees, count_shards=count_shards)

    def _job(self, folder: pathlib.Path, raw: pathlib.Path, kind: str, made: plan.Plan, how: How) -> shards.Job:
        config: Config = self.builder_config
        bound = how.max_rejected if how.max_rejected >= 0 else max(10, sum(made.entries.values()) // 100)
        if made.faults > bound:
            raise UserError(f"{made.faults} unusable entries while listing, more than {bound}; see "
                            f"{made.folder / REJECTED}, mend the raw data or raise --max-rejected")
        return shards.Job(importer=config.importer, raw=str(raw), kind=kind, sensors=dict(config.sensors),
                          size=config.size, raw_size=0 if config.any_size else config.raw_size, label=config.label_spec,
                          labels=config.labels, filters=config.filters, name=self.name, folder=os.fspath(folder),
                          max_rejected=bound, accepted=how.accepted, exclude=config.exclude)

    def _record_bytes(self) -> int:
        facts = self.info.metadata[finish.FACTS]["tensors"].values()
        return _OVERHEAD + sum(int(np.prod(f["shape"])) * np.dtype(f["dtype"]).itemsize for f in facts)

    def _finish(self, job: shards.Job, made: plan.Plan, notes: list[shards.Note], doubts: Doubts) -> None:
        """Writes all files but the shards: index, rejected.jsonl, TFDS's files, the manifest; prints the summary."""
        folder, tasks = pathlib.Path(job.folder), made.tasks()
        rejected = (made.folder / REJECTED).read_text().splitlines()
        rejected += [json.dumps(row) for note in notes for row in note.rejected]
        (folder / REJECTED).unlink(missing_ok=True)
        if rejected:
            atomic.write(folder / REJECTED, ("\n".join(rejected) + "\n").encode())
        if not sum(note.records for note in notes):
            shutil.rmtree(folder.parent / "notes")  # the next run starts from the beginning
            raise UserError(f"no record is left of {sum(made.entries.values())} entries, see {folder / REJECTED}, the "
                            f"first one because: {turned_away.first_reason(rejected)}; check --raw and the filters")
        splits = {split: [(task, note) for task, note in zip(tasks, notes, strict=True) if task.split == split]
                  for split in made.entries}
        splits = {split: parts for split, parts in splits.items() if sum(note.records for _, note in parts)}
        for task in tasks:
            if task.split not in splits:
                job.shard(task).unlink(missing_ok=True)
        template = tfds.core.ShardedFileTemplate(dataset_name=self.name, data_dir=folder, filetype_suffix="tfrecord")
        self.info.set_splits(tfds.core.splits.SplitDict([
            tfds.core.SplitInfo(name=split, shard_lengths=[note.records for _, note in parts],
                                num_bytes=sum(note.bytes for _, note in parts),
                                filename_template=template.replace(split=split))
            for split, parts in splits.items()]))
        facts = self.info.metadata[finish.FACTS]
        facts["source"]["split_by"] = made.split_by
        contents = summary.join([(task.split, note.content) for task, note in zip(tasks, notes, strict=True)],
                                job.label)
        if text := summary.text(contents, job.label):
            facts["source"]["content"] = text
        facts["source"]["plausibility"] = doubts.text() + (
            f"; accepted: {', '.join(job.accepted)}" if job.accepted else "")
        remarks = _remarks(notes)
        if remarks:
            facts["source"]["remarks"] = "; ".join(remarks)
        self.info.write_to_directory(folder)
        atomic.write(folder / ASKED, (json.dumps(made.facts, indent=1) + "\n").encode())
        finish.save(folder, dict(facts), {
            split: [{"file": job.shard(task).name, "bytes": note.bytes, "records": note.records,
                     "sha256": note.sha256} for task, note in parts] for split, parts in splits.items()},
            {split: np.concatenate([note.index for _, note in parts]) for split, parts in splits.items()})
        final = folder.parent.parent / folder.parent.name.removeprefix("incomplete.")
        for line in (*_summary(notes, remarks, rejected, final, timed(job.sensors)),
                     *summary.lines(contents, job.label), *(f"implausible: {line}" for line in doubts.lines())):
            print(line, flush=True)


def _is_described_anew(built: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Returns True if the description of the raw data (geotiff.json) changed; size and sensors change with it."""
    follows = {"description", "size", "sensors"}
    others = [{name: value for name, value in facts.items() if name not in follows} for facts in (built, asked)]
    return built.get("description") != asked.get("description") and not _differences(*others)


def _differences(built: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Returns 'raw /a, not /b; size 120, not 60'; '' if nothing differs. Texts for people do not count."""
    if asked.get("block_degrees") is None and built.get("block_degrees") == 1:  # the default of older versions
        built = {**built, "block_degrees": None}
    return "; ".join(f"{name} {built.get(name)}, not {asked.get(name)}" for name in {**built, **asked}
                     if name not in _TEXTS and built.get(name) != asked.get(name))


def _summary(notes: list[shards.Note], remarks: Sequence[str], rejected: list[str], folder: pathlib.Path,
             features: Sequence[str]) -> Iterator[str]:
    yield from turned_away.summary(rejected, str(folder / REJECTED))
    gaps = GapHistogram()
    seconds: dict[str, float] = {}
    for note in notes:
        gaps.merge(note.gaps)
        for name, value in note.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    yield from remarks
    yield from gaps.lines(features)
    total = max(sum(seconds.values()), 1e-9)
    yield "time of the workers: " + ", ".join(f"{name} {value / total:.0%}" for name, value in seconds.items())


def _join_doubts(notes: Sequence[shards.Note]) -> Doubts:
    joined = Doubts()
    for note in notes:
        joined.merge(note.doubts or Doubts())
    return joined


def _stop_at_doubts(work: pathlib.Path, doubts: Doubts, accepted: Sequence[str]) -> None:
    """Raises UserError if too many images break a rule; the shards stay, in case the user accepts the values."""
    if rules := doubts.too_many(accepted):
        atomic.write(work / _DOUBTED, json.dumps(rules).encode())
        raise UserError(doubts.refusal(rules))


def _start_anew_after_doubts(work: pathlib.Path, accepted: Sequence[str]) -> None:
    """Removes shards that were stopped for their values, unless the user accepts them now: the raw data were mended."""
    marker = work / _DOUBTED
    if marker.exists():
        if not set(json.loads(marker.read_text())) <= set(accepted):
            for name in ("data", "notes", "plan"):
                shutil.rmtree(work / name, ignore_errors=True)
        marker.unlink()


def _remarks(notes: Sequence[shards.Note]) -> list[str]:
    """Returns 's1: order of the bands taken from geotiff.json: 12 records' for each remark, the most frequent first."""
    counts: collections.Counter[str] = collections.Counter()
    for note in notes:
        counts.update(note.remarks)
    return [f"{remark}: {count} records" for remark, count in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]


def _check_space(job: shards.Job, made: plan.Plan, record_bytes: int) -> None:
    left = sum(task.stop - task.start for task in made.tasks() if shards.finished(job, task) is None)
    needed = left * patches(job.raw_size, job.size) * record_bytes
    free = shutil.disk_usage(job.folder).free
    if free < needed:
        raise UserError(f"the shards need {needed / 1e9:.1f} GB, the disk of '{job.folder}' has {free / 1e9:.1f} GB "
                        "free; make room or give another --data_dir, then run the same command again")


@contextlib.contextmanager
def _alone(work: pathlib.Path) -> Iterator[None]:
    """Keeps a second build out of a folder."""
    with atomic.explained(work / "lock"):
        file = open(work / "lock", "w")
    with file:
        if not lock.take(file):
            raise UserError(f"another build is at work in '{work}'; wait for it or stop it")
        yield


def _tensor(shape: tuple[int, ...], dtype: str) -> tfds.features.Tensor:
    # The default encoding stores integers as varints and builds 30x slower.
    return tfds.features.Tensor(shape=shape, dtype=np.dtype(dtype).type, encoding=tfds.features.Encoding.BYTES)
