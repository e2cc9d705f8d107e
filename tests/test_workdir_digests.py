"""Every file of a workdir has a digest or a checksum: one flipped bit is found, or the right content is read.

S1S2_FLIPS is the number of flips; the default takes seconds.
"""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from dual_encoder.data import tfrecord
from dual_encoder.errors import UserError
from dual_encoder.evaluation.table import Column, Evaluation, Picture, Row, Table
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.report import html
from dual_encoder.report.page import write_report
from dual_encoder.runtime import mesh
from dual_encoder.state import TrainState
from dual_encoder.workdir import checkpoint, digests, folder, metrics
from dual_encoder.workdir.scores import save_evaluation
from tests.bit_flips import flipped, places

FLIPS = int(os.environ.get("S1S2_FLIPS", "60"))
FACTS = {"config": {"task": "pretrain", "seed": 3, "batch_size": 8}, "code_version": "1.0.0",
         "dataset": {"name": "s1s2_pairs", "config": "tiny", "version": "1.0.0", "fingerprint": "ab" * 32,
                     "source": {"licence": "none"}, "records": {"train": 7}, "classes": [], "tensors": {}},
         "sensors": {"s1": SENSORS["s1_grd"].to_json()}}
TABLE = Table("knn", "Neighbours", "sensor", (Column("top1", "accuracy", "share", "higher"),),
              (Row("s1", "S1", (0.5,)),), pictures=(Picture("examples", "Some neighbours"),))


def state(step):
    values = np.random.default_rng(step).normal(size=(40, 50)).astype(np.float32)
    return TrainState(step=jnp.int32(step), params={"kernel": jnp.asarray(values)},
                      batch_stats={"mean": jnp.full(3, step, jnp.float32)}, opt_state={"m": jnp.asarray(values / 2)},
                      average={})


@pytest.fixture
def workdir(tmp_path):
    """A run of 6 steps with checkpoints at 2, 4 and 6, written by the writers of a run."""
    path = epath.Path(tmp_path / "run")
    folder.check(path, FACTS)
    folder.record_run(path, FACTS, 2003)
    writer = metrics.MetricWriter(path, 0)
    checkpoints = checkpoint.Checkpoints(path, 5, FACTS)
    for step in range(1, 7):
        writer.write(step, "train", {"loss": 3 / step})
        if step % 2 == 0:
            checkpoints.save(step, state(step))
    writer.write(6, "eval", {"knn/s1/top1": 0.5})
    writer.close()
    checkpoints.close()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    save_evaluation(path, 6, Evaluation((TABLE,), {"examples": Image.fromarray(noise)}))
    return path


def test_a_save_compiles_nothing(tmp_path, caplog):
    """On eight devices that all hold the arrays, Orbax would cut each array into slices, with a program per shape."""
    checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path), 5, FACTS)
    held = jax.device_put(state(3), mesh.replicated(mesh.make()))
    with jax.log_compiles():
        checkpoints.save(3, held)
        checkpoints.close()
    assert not [record for record in caplog.records if "compil" in record.getMessage().lower()]
    for path, leaf in jax.tree_util.tree_leaves_with_path(checkpoint.load_model(tmp_path).variables["params"]):
        np.testing.assert_array_equal(leaf, state(3).params[path[0].key])


def model(workdir, step):
    loaded = checkpoint.load_model(workdir, step)
    return loaded.step, jax.tree.map(np.ndarray.tobytes, loaded.variables), loaded.config, loaded.dataset


def events(path):
    """The payloads of a TensorBoard file; UserError if one is damaged."""
    with open(path, "rb") as file:
        payloads = [tfrecord.read_payload(file.fileno(), *place) for place in tfrecord.scan(path)]
    if None in payloads:
        raise UserError("a payload is damaged")
    return payloads


def reading_of(name):
    """Returns workdir -> content that the readers of a file see. A UserError, or a problem on the page, is damage."""
    if name.startswith("checkpoints/"):
        return lambda workdir: model(workdir, int(name.split("/")[1]))
    if name.startswith("tensorboard/"):
        return lambda workdir: events(workdir / name)
    return lambda workdir: (write_report(workdir).read_text(), metrics.read(workdir))


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Curves take a fifth of a second each; their numbers stand in for them."""
    monkeypatch.setattr(html, "plot", lambda title, lines, marks: repr((title, lines)).encode())


def test_one_flipped_bit_is_found_or_does_no_harm(workdir, capsys):
    write_report(workdir)
    names = [path.relative_to(workdir).as_posix() for path, _ in places(workdir, 1000, seed=0)]
    expected = {name: reading_of(name)(workdir) for name in set(names)}
    counts = {"found": 0, "same content": 0}
    for path, rng in places(workdir, FLIPS, seed=2):
        name = path.relative_to(workdir).as_posix()
        with flipped(path, rng) as place:
            where = f"{name} {place}"
            try:
                seen = reading_of(name)(workdir)
            except UserError as error:
                assert "\n" not in str(error), where
                counts["found"] += 1
                continue
            if seen == expected[name]:
                counts["same content"] += 1
            else:
                assert '<section class="warning">' in seen[0], where
                counts["found"] += 1
    print(counts)
    assert min(counts.values()) > 0


def test_a_resumed_run_finds_damage_or_goes_on_with_the_right_content(workdir, tmp_path, capsys):
    newest = [name for name in (path.relative_to(workdir).as_posix() for path, _ in places(workdir, 300, seed=0))
              if name.startswith("checkpoints/6/") or name in ("config.json", "run.json", "digests.json")]
    for path, rng in places(workdir, FLIPS // 4, seed=4,
                            leave_out=lambda name: name not in newest):
        name = path.relative_to(workdir).as_posix()
        copy = epath.Path(tmp_path / "copy")
        with flipped(path, rng) as place:
            shutil.copytree(workdir, copy)
        capsys.readouterr()
        try:
            folder.check(copy, FACTS)
            checkpoints = checkpoint.Checkpoints(copy, 5, FACTS)
            try:
                restored = checkpoints.restore(state(0))
            finally:
                checkpoints.close()
            said = capsys.readouterr().out
            step = int(restored.step)
            assert step == 6 or "checkpoint 6 is damaged" in said, (name, place)
            jax.tree.map(np.testing.assert_array_equal, restored, state(step))
            folder.record_run(copy, FACTS, 2003)
            for file in ("config.json", "run.json"):
                written, before = (json.loads((at / file).read_text()) for at in (copy, workdir))
                same = written == before | {"command": written.get("command")} if "command" in before else (
                    written == before)
                assert same or "does not match its digest" in said, (name, place)
        except UserError as error:
            assert "\n" not in str(error) and name in ("config.json", "run.json"), (name, place)
        shutil.rmtree(copy)


def test_a_kill_between_digest_and_file_is_no_damage(workdir, monkeypatch):
    """The new digest is there, the file is still the old one; then the next start writes the file."""
    write = digests.atomic.write

    def only_sums(path, data):
        if path.name == "digests.json":
            write(path, data)

    monkeypatch.setattr(digests.atomic, "write", only_sums)
    digests.write(workdir, "run.json", b"{}")
    assert digests.fault(workdir, "run.json") is None
    monkeypatch.undo()
    digests.write(workdir, "run.json", b"{}")
    assert digests.fault(workdir, "run.json") is None and (workdir / "run.json").read_bytes() == b"{}"
    (workdir / "run.json").write_bytes(b"{} ")
    assert "run.json does not match its digest" in digests.fault(workdir, "run.json")


@pytest.mark.parametrize("name", ["config.json", "run.json"])
@pytest.mark.parametrize("text", ["", "[]", "3", "{", '"x"', "[" * 100000, '{"seed": 4}', '{"dataset": []}',
                                  '{"sensors": 5, "dataset": {"fingerprint": []}}', '{"task": {"a": [1, {"b": 2}]}}'])
def test_facts_of_any_form_are_one_line(workdir, name, text):
    (workdir / name).write_text(text)
    try:
        folder.check(workdir, FACTS)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert name == "run.json" and "dataset" not in text and "sensors" not in text and text.startswith("{")
