"""Builds by many workers: same bytes, resumed after kill -9, nothing half visible, bad records bounded and named."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

from data_prep.build import builder, shards
from data_prep.build.config import make_config
from data_prep.importers import npz
from data_prep.record import Pair, cut
from data_prep.s1s2_pairs.s1s2_pairs_dataset_builder import Builder
from dual_encoder.data.manifest import load_info
from dual_encoder.data.tfrecord import ShardedRecords
from dual_encoder.errors import UserError
from dual_encoder.imagery.sensors import SENSORS

ROOT = pathlib.Path(__file__).parents[2]
SPECS = {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]}
DAY = 86400


def write_raw(folder, files=4, per_file=10, size=16, bad=()):
    """Own arrays in .npz files; radar of the records in `bad` is all NaN."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(files):
        rows = np.arange(number * per_file, (number + 1) * per_file)
        s1 = rng.normal(-12, 4, (per_file, 2, size, size)).astype(np.float32)
        s1[np.isin(rows, bad)] = np.nan
        np.savez(folder / f"part{number}.npz", id=[f"r{row:03d}" for row in rows], s1=s1, s1_bands=SPECS["s1"].bands,
                 s2=rng.integers(1, 9000, (per_file, 12, size, size), np.uint16), s2_bands=SPECS["s2"].bands,
                 s1_time=rows * 3600, s2_time=np.zeros_like(rows), lat=rows * 0.3, lon=rows * 0.0)
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def data_folder(data_dir, config="npz"):
    return data_dir / "s1s2_pairs" / config / "1.0.0"


def build(raw, data_dir, *options):
    return "build", "--importer=npz", f"--raw={raw}", f"--data_dir={data_dir}", *options


@pytest.fixture(scope="module")
def reference(cli, tmp_path_factory):
    """(raw folder, files of the data set that one worker builds of it in 8 shards per split)."""
    folder = tmp_path_factory.mktemp("reference")
    raw = write_raw(folder / "raw", bad=(7, 31))
    process = cli(*build(raw, folder / "data", "--workers=1", "--num-shards=8"))
    assert process.returncode == 0, process.stderr
    return raw, files_of(data_folder(folder / "data"))


def test_shards_and_rejects_hold_every_record_once(reference, tmp_path):
    raw, files = reference
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    info = load_info(folder)
    found = []
    for split, entries in info.shards.items():
        records = ShardedRecords(folder, split)
        found += [records[i]["id"].decode() for i in range(len(records))]
        assert [entry["file"] for entry in entries] == [
            f"s1s2_pairs-{split}.tfrecord-{i:05d}-of-{len(entries):05d}" for i in range(len(entries))]
    rejected = [json.loads(line)["id"] for line in files["rejected.jsonl"].decode().splitlines()]
    assert sorted(rejected) == ["r007", "r031"]
    assert sorted(found + rejected) == [f"r{i:03d}" for i in range(40)]
    assert len(info.shards["train"]) == 8


def test_any_number_of_workers_gives_the_same_bytes(reference, cli, tmp_path):
    raw, files = reference
    process = cli(*build(raw, tmp_path, "--workers=3", "--num-shards=8"))
    assert process.returncode == 0, process.stderr
    assert files_of(data_folder(tmp_path)) == files


@pytest.mark.slow
def test_beam_gives_the_same_bytes(reference, cli, tmp_path):
    pytest.importorskip("apache_beam", reason="the extra 'beam' is not installed")
    raw, files = reference
    process = cli(*build(raw, tmp_path, "--beam=runner=DirectRunner", "--num-shards=8"))
    assert process.returncode == 0, process.stderr
    assert files_of(data_folder(tmp_path)) == files


def test_beam_workers_without_the_folder_are_one_line(tmp_path, monkeypatch):
    """A stand-in for Beam whose workers write on a disk of their own: here, nothing at all."""
    class Pipeline:
        def __init__(self, options):
            pass

        __enter__ = __or__ = lambda self, *_: self
        __exit__ = lambda self, *_: None  # noqa: E731

    beam = types.SimpleNamespace(Pipeline=Pipeline, Create=tuple, Reshuffle=tuple, Map=lambda *_: None)
    options = types.SimpleNamespace(PipelineOptions=lambda *_, **__: None)
    for name, module in {"": beam, ".options": beam, ".options.pipeline_options": options}.items():
        monkeypatch.setitem(sys.modules, f"apache_beam{name}", module)
    raw = write_raw(tmp_path / "raw")
    with pytest.raises(UserError, match="the workers ended, but 3 of 3 shards are not in '.*/data'; give a --data_dir "
                                        "that all workers") as error:
        Builder(data_dir=tmp_path, config=_config(raw)).build(raw, builder.How(beam=["--runner=Elsewhere"]))
    assert "\n" not in str(error.value)


def test_beam_without_beam_is_one_line(reference, cli, tmp_path):
    (tmp_path / "apache_beam.py").write_text("raise ImportError")
    process = cli(*build(reference[0], tmp_path / "data", "--beam=runner=DirectRunner"),
                  PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert process.returncode == 2 and "--beam needs Apache Beam; install it with" in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_where_it_stopped(cli, tmp_path, workers):
    raw = write_raw(tmp_path / "raw", files=6, per_file=40, size=60)
    command = build(raw, tmp_path / "killed", f"--workers={workers}", "--num-shards=20", "--split-by=area")
    work = tmp_path / "killed/s1s2_pairs/npz_by_area/incomplete.1.0.0"
    process = subprocess.Popen([sys.executable, "-m", "data_prep", *command], start_new_session=True,
                               env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    while len(list(work.glob("notes/*.json"))) < 5 and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was not done already
    assert not data_folder(tmp_path / "killed", "npz_by_area").exists()
    deadline = time.monotonic() + 20
    while _group_lives(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_lives(process.pid), "workers outlived the command"
    done = {path: path.stat().st_mtime_ns for path in (work / "data").glob("s1s2_pairs-*")
            if (work / "notes" / _note_of(path)).exists()}
    assert 5 <= len(done) < 60
    resumed = cli(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on with a build that was stopped" in resumed.stdout
    assert f"{len(done)} of 60 shards are finished already" in resumed.stdout
    undisturbed = cli(*build(raw, tmp_path / "whole", "--workers=2", "--num-shards=20", "--split-by=area"))
    assert undisturbed.returncode == 0, undisturbed.stderr
    folder = data_folder(tmp_path / "killed", "npz_by_area")
    assert files_of(folder) == files_of(data_folder(tmp_path / "whole", "npz_by_area"))
    assert all((folder / path.name).stat().st_mtime_ns == changed for path, changed in done.items())
    assert not work.exists()


def _group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _note_of(shard):
    split, number = shard.name.split("-")[1].split(".")[0], shard.name.split("-")[2]
    return f"{split}-{number}.json"


def test_too_many_bad_records_stop_the_build_and_a_higher_bound_goes_on(cli, tmp_path):
    raw = write_raw(tmp_path / "raw", bad=range(0, 40, 3))
    process = cli(*build(raw, tmp_path, "--workers=1"))
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    log = tmp_path / "s1s2_pairs/npz/incomplete.1.0.0/faults.jsonl"
    assert f"more than 10 unusable records, see {log}, the last is 'r0" in process.stderr
    assert "raise --max-rejected" in process.stderr and len(log.read_text().splitlines()) == 11
    assert not data_folder(tmp_path).exists()
    process = cli(*build(raw, tmp_path, "--workers=1", "--max-rejected=14"))
    assert process.returncode == 0, process.stderr
    assert "14 unusable and 0 filtered out, see" in process.stdout


def test_what_was_mended_is_read_again(cli, tmp_path):
    raw = write_raw(tmp_path / "raw", bad=range(0, 40, 3))
    command = build(raw, tmp_path, "--workers=1", "--num-shards=8")
    assert cli(*command).returncode == 2
    done = list((tmp_path / "s1s2_pairs/npz/incomplete.1.0.0/notes").iterdir())
    assert done  # shards with some faults are finished and all the same written again
    for path in raw.iterdir():
        path.unlink()
    raw.rmdir()
    write_raw(raw)
    process = cli(*command)
    assert process.returncode == 0, process.stderr
    assert "going on with a build" in process.stdout
    info = load_info(data_folder(tmp_path))
    assert sum(entry["records"] for entries in info.shards.values() for entry in entries) == 40
    assert not (data_folder(tmp_path) / "rejected.jsonl").exists()


def test_a_stopped_build_is_not_mixed_with_other_options(cli, tmp_path):
    raw = write_raw(tmp_path / "raw", bad=range(40))
    assert cli(*build(raw, tmp_path)).returncode == 2
    (tmp_path / "s1s2_pairs/npz/incomplete.1.0.0/notes/train-00000.json").write_text("{}")  # as if one had finished
    process = cli(*build(raw, tmp_path, "--max-gap-days=9", "--max-rejected=1000"))
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "is a build that was stopped and differs: filters None, not max_gap_days=9; repeat" in process.stderr
    process = cli(*build(raw, tmp_path, "--max-rejected=1000"))
    assert process.returncode == 2 and "no record is left of 40 entries, see" in process.stderr
    for path in raw.iterdir():
        path.unlink()
    raw.rmdir()
    process = cli(*build(write_raw(raw), tmp_path))
    assert process.returncode == 0, process.stderr  # all was mended


def test_listing_that_finds_too_much_wrong_is_made_again(cli, tmp_path):
    raw = write_raw(tmp_path / "raw")
    with np.load(raw / "part0.npz") as file:
        np.savez(raw / "part9.npz", **file)  # ten ids twice
    process = cli(*build(raw, tmp_path, "--max-rejected=5"))
    assert process.returncode == 2 and "10 unusable entries while listing, more than 5; see" in process.stderr
    (raw / "part9.npz").unlink()
    process = cli(*build(raw, tmp_path, "--max-rejected=5"))
    assert process.returncode == 0 and "built 40 records" in process.stdout, process.stderr


def test_another_raw_folder_is_not_taken_for_the_first(cli, tmp_path):
    assert cli(*build(write_raw(tmp_path / "one"), tmp_path)).returncode == 0
    process = cli(*build(write_raw(tmp_path / "two"), tmp_path))
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert (f"was built otherwise: raw {tmp_path / 'one'}, not {tmp_path / 'two'}; delete that folder to build it "
            "anew, or give another --name") in process.stderr


def test_blocks_of_older_versions_are_those_of_no_choice():
    left_out, before = {"block_degrees": None}, {"block_degrees": 1.0}
    assert not builder._differences(before, left_out) and not builder._differences(left_out, left_out)
    assert builder._differences({"block_degrees": 0.5}, left_out) == "block_degrees 0.5, not None"
    assert builder._differences(left_out, before) == "block_degrees None, not 1.0"


def test_misfit_images_are_rejected_before_they_are_cut(cli, tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "raw", files=1, per_file=4)
    read = npz.Importer.read

    def other_sizes(self, entry):
        pair = read(self, entry)
        if entry.id == "r001":  # S2 shows more ground
            return dataclasses.replace(pair, images=pair.images | {"s2": np.tile(pair.images["s2"], (2, 2, 1))})
        if entry.id == "r002":  # both are larger than the layout says
            larger = {name: np.tile(image, (2, 2, 1)) for name, image in pair.images.items()}
            return dataclasses.replace(pair, images=larger)
        if entry.id == "r003":  # no record at all
            raise ZeroDivisionError("oops")
        return pair

    monkeypatch.setattr(npz.Importer, "read", other_sizes)
    config = make_config("npz", "pairs", raw=raw, size=8, name="cut")
    Builder.of(config, tmp_path).build(raw, builder.How())
    folder = data_folder(tmp_path, "cut")
    rows = {row["id"]: row["reason"] for row in map(json.loads, (folder / "rejected.jsonl").read_text().splitlines())}
    assert list(rows) == ["r001", "r002", "r003"] and rows["r003"] == "ZeroDivisionError: oops"
    assert "size of s2 is [32, 32], expected that of s1, [16, 16]" in rows["r001"]
    assert "shape of s1 is [32, 32, 2], expected [16, 16, 2]" in rows["r002"]
    assert sum(entry["records"] for entries in load_info(folder).shards.values() for entry in entries) == 4


def test_filters_of_the_command_line(cli, tmp_path):
    raw = write_raw(tmp_path / "raw")
    process = cli(*build(raw, tmp_path, "--max-gap-days=1", "--split-by=area", "--block-degrees=90", "--name=near"))
    assert process.returncode == 0, process.stderr
    info = load_info(data_folder(tmp_path, "near"))
    assert info.source["filters"] == "max_gap_days=1"
    assert sum(entry["records"] for entries in info.shards.values() for entry in entries) == 25  # gaps are hours
    assert list(info.shards) == ["validation"]  # one block of 90 degrees
    assert "15 turned away by filter" in process.stdout and "  1-2 days" in process.stdout


def test_full_disk_is_one_line_and_the_rerun_completes(reference, tmp_path):
    raw, files = reference
    command = build(raw, tmp_path, "--workers=2", "--num-shards=8")

    def run(limit):
        line = f"ulimit -f {limit}; exec '{sys.executable}' -m data_prep {' '.join(command)}"
        return subprocess.run(["bash", "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
                              capture_output=True, timeout=120)

    process = run(16)  # KiB; a shard has 25 and more
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert "cannot write '" in process.stderr and "File too large" in process.stderr
    work = tmp_path / "s1s2_pairs/npz/incomplete.1.0.0"
    assert not data_folder(tmp_path).exists() and not [p for p in work.rglob("*") if p.name.endswith(".tmp")]
    process = run("unlimited")
    assert process.returncode == 0, process.stderr
    assert files_of(data_folder(tmp_path)) == files


def test_too_little_space_is_told_before_the_work(tmp_path, monkeypatch, capsys):
    raw = write_raw(tmp_path / "raw")
    free = builder.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(builder.shutil, "disk_usage", lambda path: free)
    with pytest.raises(builder.UserError, match=r"the shards need 0.0 GB, the disk of .* has 0.0 GB free; make room"):
        Builder(data_dir=tmp_path, config=_config(raw)).build(raw, builder.How())


def test_a_second_build_is_kept_out(tmp_path, monkeypatch):
    raw = write_raw(tmp_path / "raw")
    first, second = (Builder(data_dir=tmp_path, config=_config(raw)) for _ in range(2))
    run = builder.workers.run

    def while_building(*arguments):
        with pytest.raises(builder.UserError, match="another build is at work"):
            second.build(raw, builder.How())
        return run(*arguments)

    monkeypatch.setattr(builder.workers, "run", while_building)
    first.build(raw, builder.How())
    assert first.is_prepared()


def _config(raw):
    return make_config("npz", "pairs", raw=raw)


def test_a_dead_worker_is_named(reference, tmp_path):
    raw, _ = reference
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nfrom data_prep.importers import npz\n"
        "def die(self, entry): os._exit(9)\nnpz.Importer.read = die\n")
    process = subprocess.run([sys.executable, "-m", "data_prep", *build(raw, tmp_path / "data", "--workers=2")],
                             env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, text=True,
                             capture_output=True, timeout=120)
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr
    assert "worker processes died" in process.stderr and "finished shards are kept" in process.stderr


# Cutting

def test_cut_patches_are_the_windows_of_the_image():
    rng = np.random.default_rng(1)
    images = {"s1": rng.integers(-3000, 0, (20, 20, 2), np.int16), "s2": rng.integers(0, 9000, (20, 20, 12), np.uint16)}
    pair = Pair(id="p", images=images, times={"s1": 1, "s2": 2}, location_id="here", lat=1.0,
                lon=2.0, source="S", s2_offset_removed=0, split="train")
    patches = {patch.id: patch for patch in cut(pair, 8)}
    assert list(patches) == ["p_r0_c0", "p_r0_c1", "p_r1_c0", "p_r1_c1"]
    assert patches["p_r1_c0"].location_id == "here_r1_c0" and patches["p_r1_c0"].times["s1"] == 1
    np.testing.assert_array_equal(patches["p_r1_c0"].images["s1"], pair.images["s1"][8:16, :8])
    np.testing.assert_array_equal(patches["p_r0_c1"].images["s2"], pair.images["s2"][:8, 8:16])
    assert cut(pair, 20) == [pair]


def test_cut_builds_have_patches_and_filter_each(cli, tmp_path):
    raw = write_raw(tmp_path / "raw", files=1, per_file=3)
    with np.load(raw / "part0.npz") as file:
        arrays = dict(file)
    arrays["s1"][1, :, :8, :8] = np.nan
    np.savez(raw / "part0.npz", **arrays)
    process = cli(*build(raw, tmp_path, "--size=8", "--min-valid=0.9", "--block-degrees=90", "--split-by=area"))
    assert process.returncode == 0, process.stderr
    records = ShardedRecords(data_folder(tmp_path, "npz_8px_by_area"), "validation")
    stored = {records[i]["id"].decode(): records[i] for i in range(len(records))}
    assert len(stored) == 11 and "r001_r0_c0" not in stored
    expected = np.moveaxis(arrays["s2"][1], 0, -1)[8:, :8]
    np.testing.assert_array_equal(stored["r001_r1_c0"]["s2"], expected)
    assert records.info.source["patches"] == "8 px, cut from 16 px"


# The bytes of a record

def test_serialized_records_are_those_of_tfds(reference, python, tmp_path):
    raw, _ = reference
    code = """
import pathlib, sys
import numpy as np
from tensorflow_datasets.core import example_serializer
from data_prep.build import shards
from data_prep.build.config import make_config
from data_prep.importers import npz
from data_prep.s1s2_pairs.s1s2_pairs_dataset_builder import Builder
raw = pathlib.Path(sys.argv[1])
config = make_config('npz', 'pairs', raw=raw)
builder = Builder(data_dir=sys.argv[2], config=config)
importer = npz.Importer(raw, 'pairs', config.sensors)
pair = importer.read(next(importer.entries()))
job = shards.Job(importer='npz', raw='', kind='pairs', sensors=config.sensors, size=16, raw_size=16, label=None,
                 labels='', filters=config.filters, name='', folder='', max_rejected=0)
ours = shards.serialize(job, pair)
example = dict(pair.images) | {n: getattr(pair, n) for n in (*shards.TEXTS, 's2_offset_removed', *shards.FLOATS)}
example |= {f'{feature}_time': time for feature, time in pair.times.items()}
serializer = example_serializer.ExampleSerializer(builder.info.features.get_serialized_info())
theirs = serializer.get_tf_example(builder.info.features.encode_example(example))
assert ours == theirs.SerializeToString(deterministic=True) and len(ours) > 7000
"""
    process = python(code, raw, tmp_path)
    assert process.returncode == 0, process.stderr


def test_notes_come_back_as_they_were():
    note = shards.Note(5, 2, "ab", np.array([(0, 12, 7), (0, 40, 9)], shards.INDEX_DTYPE), shards.GapHistogram(),
                       [{"id": "x", "reason": "ü"}], {"read": 0.5})
    note.gaps.add({"s1": 0, "s2": 3 * DAY})
    again = shards.Note.from_json(note.to_json())
    np.testing.assert_array_equal(again.index, note.index)
    assert again.gaps.counts == note.gaps.counts and again.rejected == note.rejected and again.sha256 == "ab"
