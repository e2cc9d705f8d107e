"""The step: 1 device == 8 devices == a textbook pmap step; the loop: resume, kill, non-finite, workdirs."""

import contextlib
import dataclasses
import json
import re
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from dual_encoder.config import to_dict
from dual_encoder.data.batches import batches
from dual_encoder.data.records import BatchReader, Records
from dual_encoder.errors import UserError
from dual_encoder.losses.contrastive import info_nce
from dual_encoder.optim.optimizer import make_optimizer
from dual_encoder.runtime import mesh
from dual_encoder.runtime.stop_request import StopRequest
from dual_encoder.tasks.pretrain import Pretrain
from dual_encoder.training import hooks, loop
from dual_encoder.training.evaluate import evaluator
from dual_encoder.training.step import compile_step, init_state
from dual_encoder.workdir import checkpoint, checkpoint_folder, metrics
from dual_encoder.workdir import folder as workdir_lib
from tests import runs
from tests.runs import fit, open_run

SENSORS = ("s1", "s2")

pytestmark = pytest.mark.usefixtures("short_resnet")


def configure(folder, family="vit", **changes):
    """`runs.configure` of six steps of pre-training, with a checkpoint every second one."""
    return runs.configure(folder, family=family, **{"schedule__steps": 6, "schedule__checkpoint_every": 2} | changes)


def final_arrays(workdir):
    loaded = checkpoint.load_model(workdir)
    return loaded.step, jax.tree.map(np.asarray, loaded.variables)


def assert_identical(one, other):
    assert one[0] == other[0]
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def loss_and_gradients(task, records, devices, batch_size=16):
    devices = mesh.make(devices)
    params, stats = jax.device_put(task.init(jax.random.key(0)), mesh.replicated(devices))
    stream = batches(records, seed=0, batch_size=batch_size, rows=range(batch_size), start=0, stop=1, threads=1,
                     processes=0)
    batch = mesh.to_global(next(stream), devices)
    function = jax.jit(jax.value_and_grad(task.loss, has_aux=True), out_shardings=mesh.replicated(devices))
    (loss, (stats, measured)), grads = function(params, stats, batch, jax.random.key(1))
    return {"loss": loss, "stats": stats, "metrics": measured, "grads": grads}


def relative_error(one, other):
    """Largest |difference| over largest |value|, per tensor, in float64."""
    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)
    return jax.tree.map(error, one, other)


def test_one_device_equals_eight(write_dataset):
    """Loss, gradients and BatchNorm statistics; the order of float32 sums is all that may differ."""
    # SGD sees a scale error that Adam hides; the comparison of raw gradients sees it too.
    task, records = open_run(configure(write_dataset(), family="resnet"))
    one, eight = (loss_and_gradients(task, records, devices) for devices in (jax.devices()[:1], jax.devices()))
    # Float32 sums in another order differ by 1e-6 or so; 18 BatchNorm layers amplify that some hundred times.
    assert max(jax.tree.leaves(relative_error(eight, one))) < 1e-3
    assert relative_error(eight["loss"], one["loss"]) < 1e-5
    assert max(jax.tree.leaves(relative_error(eight["stats"], one["stats"]))) < 1e-4


def test_bfloat16_compute_keeps_float32_parameters_gradients_and_loss(write_dataset):
    folder = write_dataset()
    results = {}
    for dtype in ("float32", "bfloat16"):
        task, records = open_run(configure(folder, family="resnet", encoder__dtype=dtype))
        results[dtype] = loss_and_gradients(task, records, jax.devices()[:1])
    assert {leaf.dtype for leaf in jax.tree.leaves(results["bfloat16"])} == {jnp.dtype("float32")}
    # bf16 keeps 8 bits; 20 layers in a row lose some 20 x 2^-9 = 4 %.
    np.testing.assert_allclose(results["bfloat16"]["loss"], results["float32"]["loss"], rtol=0.04)
    assert results["bfloat16"]["loss"] != results["float32"]["loss"]


def test_our_gradient_equals_a_textbook_pmap_step():
    """The card says 'pmapped': a linear dual encoder, negatives gathered with gradient, gradients averaged."""
    rng = np.random.default_rng(0)
    x1, x2, *weights = (rng.standard_normal(shape, np.float32) for shape in ((32, 10), (32, 6), (10, 4), (6, 4)))
    params = dict(zip(("w1", "w2"), weights, strict=True))

    def embed(x, w):
        z = x @ w
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    def ours(params):
        return info_nce(embed(x1, params["w1"]), embed(x2, params["w2"]), jnp.float32(10.0))[0]

    def pmap_step(params, x1, x2):
        def loss(params):
            z1, z2 = embed(x1, params["w1"]), embed(x2, params["w2"])
            all1, all2 = (jax.lax.all_gather(z, "d").reshape(-1, 4) for z in (z1, z2))
            own = jax.lax.axis_index("d") * len(z1) + jnp.arange(len(z1))
            rows = (optax.softmax_cross_entropy_with_integer_labels(10.0 * q @ k.T, own)
                    for q, k in ((z1, all2), (z2, all1)))
            return sum(row.mean() for row in rows) / 2
        value, grads = jax.value_and_grad(loss)(params)
        return jax.lax.pmean(value, "d"), jax.lax.pmean(grads, "d")

    def per_device(x):
        return x.reshape(8, 4, *x.shape[1:])

    value, grads = jax.pmap(pmap_step, axis_name="d", in_axes=(None, 0, 0), out_axes=None)(
        params, per_device(x1), per_device(x2))
    expected, expected_grads = jax.jit(jax.value_and_grad(ours))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), grads, expected_grads)


def test_batchnorm_statistics_are_those_of_the_global_batch(write_dataset):
    """Records sorted by brightness across devices: the variances of the devices are smaller than that of all."""
    task, records = open_run(configure(write_dataset(), family="resnet", augment__crop=0))
    rows = [records[n] for n in range(16)]
    rows.sort(key=lambda r: r["s1"].mean())
    batch = {k: np.stack([r[k] for r in rows]) for k in rows[0]}
    params, stats = task.init(jax.random.key(0))
    out = []
    for devices in (jax.devices()[:1], jax.devices()):
        devices = mesh.make(devices)
        _, (updated, _) = jax.jit(task.loss)(params, stats, mesh.to_global(batch, devices), jax.random.key(0))
        out.append(updated["s1_encoder"]["bn1"])
    assert set(out[0]) == {"mean", "var"}
    jax.tree.map(lambda eight, one: np.testing.assert_allclose(eight, one, rtol=1e-4, atol=1e-6), out[1], out[0])


def test_training_learns_the_pairs_and_writes_all_artefacts(write_dataset, tmp_path):
    config = configure(write_dataset(train=32), schedule__steps=150, batch_size=16, schedule__checkpoint_every=0,
                       data__eval_split="train", augment__flips=False, augment__turns=False, augment__crop=0)
    fit(config, tmp_path / "run", jax.devices()[:1], report=True)
    rows = metrics.read(tmp_path / "run")
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 150 and np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    final = [row for row in rows if row["kind"] == "eval"][-1]
    assert final["step"] == 150 and final["s1_to_s2/gallery_size"] == 32
    assert final["s1_to_s2/recall@5"] > 0.5 and final["s2_to_s1/recall@5"] > 0.5, "chance is 5 / 32"
    for name in ("config.json", "run.json", "report.html", "evaluation/scores.json",
                 "checkpoints/150/digests.json"):
        assert (tmp_path / "run" / name).exists(), name
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert "retrieval" in (tmp_path / "run" / "report.html").read_text().lower()


@pytest.fixture(scope="module")
def whole_run(write_dataset, tmp_path_factory):
    config = configure(write_dataset())
    workdir = tmp_path_factory.mktemp("whole") / "run"
    fit(config, workdir)
    return config, workdir


@pytest.fixture
def finished(whole_run, tmp_path):
    """A finished run of 6 steps, checkpoints at 2, 4 and 6, for one test to play with."""
    config, workdir = whole_run
    shutil.copytree(workdir, tmp_path / "finished")
    return config, tmp_path / "finished"


@contextlib.contextmanager
def before_step(number, action):
    """Calls `action` just before the step that makes update `number`."""
    original = loop.compile_step

    def compiling(*args):
        compiled = original(*args)

        def run(state, batch):
            if int(state.step) == number - 1:
                action()
            return compiled(state, batch)
        return run

    loop.compile_step = compiling
    try:
        yield
    finally:
        loop.compile_step = original


class Killed(BaseException):
    pass


def test_resume_equals_an_uninterrupted_run_bit_for_bit(finished, tmp_path, capfd):
    def die():
        raise Killed

    config, whole = finished
    with before_step(6, die), pytest.raises(Killed):
        fit(config, tmp_path / "part")
    fit(config, tmp_path / "part")
    assert "from step 4 to 6" in capfd.readouterr().out
    assert_identical(final_arrays(tmp_path / "part"), final_arrays(whole))
    losses = [[row["loss"] for row in metrics.read(w) if row["kind"] == "train"] for w in (whole, tmp_path / "part")]
    assert losses[0] == losses[1] and len(losses[0]) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_the_same_command_continues(finished, tmp_path, number):
    config, whole = finished
    inherited = signal.signal(number, signal.SIG_DFL)  # tests may run under nohup
    try:
        with before_step(3, lambda: signal.raise_signal(number)), pytest.raises(SystemExit) as stopped:
            fit(config, tmp_path / "part")
    finally:
        signal.signal(number, inherited)
    assert stopped.value.code == loop.STOPPED
    assert checkpoint.load_model(tmp_path / "part").step == 3
    fit(config, tmp_path / "part")
    assert_identical(final_arrays(tmp_path / "part"), final_arrays(whole))


def test_a_signal_that_nohup_ignores_does_not_stop_the_run():
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
            signal.raise_signal(signal.SIGUSR1)
            assert stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, old)


def test_the_learning_rate_is_scaled_by_the_global_batch(write_dataset, tmp_path):
    """Of 16 rows, whatever the micro-batch; 0.32 x 16 / 256 is 0.02 to the last bit."""
    folder = write_dataset()
    for name, rate, scaling in (("scaled", 0.32, "linear"), ("given", 0.02, "none")):
        config = configure(folder, batch_size=16, train__micro_batch=8, schedule__steps=2, optimizer__name="sgd",
                           optimizer__warmup=0.0, optimizer__learning_rate=rate, optimizer__scaling=scaling)
        fit(config, tmp_path / name, jax.devices()[:1])
    assert_identical(final_arrays(tmp_path / "scaled"), final_arrays(tmp_path / "given"))


def test_a_non_finite_loss_stops_with_step_and_ids_and_saves_nothing(write_dataset, tmp_path):
    config = configure(write_dataset(), optimizer__learning_rate=1e30, optimizer__name="sgd",
                       schedule__checkpoint_every=1, optimizer__warmup=0.2)
    with pytest.raises(UserError) as error:
        fit(config, tmp_path / "run")
    message = str(error.value)
    step = int(re.search(r"at step (\d+): not finite", message)[1])
    ids = re.search(r"pair ids: ([\w ]+);", message)[1].split()
    records = open_run(config)[1]
    assert ids == [records.record(int(n))["id"] for n in records.order(0, 8).numbers(step - 1)]
    for saved in (tmp_path / "run" / "checkpoints").iterdir():
        assert int(saved.name) < step
    assert step == 2 and checkpoint.load_model(tmp_path / "run").step == 1  # the first step of a warm-up has rate 0


def test_a_non_finite_update_is_not_applied(write_dataset):
    config = configure(write_dataset())
    task, records = open_run(config)
    devices, optimizer = mesh.make(), make_optimizer(config.optimizer, 8, 6)
    state = init_state(task, optimizer, config, devices)
    state = dataclasses.replace(state, params=jax.tree.map(lambda leaf: 1e30 * leaf, state.params))
    batch = mesh.to_global(BatchReader(records)(range(8)), devices)
    before = jax.device_get(state)
    after, values = compile_step(task, optimizer, config, devices)(state, batch)
    assert not values["finite"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(after), before)


def test_a_workdir_of_another_run_is_refused(finished, write_dataset):
    config, whole = finished
    before = sorted(str(p) for p in whole.rglob("*"))
    with pytest.raises(UserError, match=r"config.seed=0, this run has 1; use another workdir"):
        fit(configure(config.data.dir, seed=1), whole)
    other = write_dataset(seed=5)
    with pytest.raises(UserError, match="fingerprint"):
        fit(configure(other), whole)
    assert sorted(str(p) for p in whole.rglob("*")) == before
    info = Records(config.data.dir, "train", SENSORS).info
    facts = workdir_lib.facts(to_dict(config), info, info.sensors)
    statistics = {name: spec | {"std": [1.0] * len(spec["bands"])} for name, spec in facts["sensors"].items()}
    with pytest.raises(UserError, match=r"sensor fact s1.std=.* this run has \[1.0, 1.0\]"):
        workdir_lib.check(epath.Path(whole), facts | {"sensors": statistics})
    workdir_lib.check(epath.Path(whole), facts)
    fit(configure(config.data.dir, schedule__log_every=3), whole)  # how often one looks may change


def test_checkpoints_of_another_run_are_refused(finished, write_dataset):
    """The rest of its folder is gone, so the checkpoints themselves say what they are of."""
    config, whole = finished
    for file in ("config.json", "run.json"):
        (whole / file).unlink()
    with pytest.raises(UserError, match=r"checkpoint 6 of '.*' is of a run with config.encoder.width=64"):
        fit(configure(config.data.dir, encoder__width=128), whole)
    with pytest.raises(UserError, match="checkpoint 6 of '.*' is of a run on data with fingerprint"):
        fit(configure(write_dataset(seed=5)), whole)
    fit(config, whole)
    assert (whole / "config.json").exists()


def test_a_checkpoint_that_does_not_fit_the_code_is_one_line(finished, monkeypatch):
    """As after an update that changed the model: the same configuration, other shapes."""
    config, whole = finished
    init = Pretrain.init

    def other(self, key):
        params, stats = init(self, key)
        return params | {"log_scale": jnp.zeros(2)}, stats

    monkeypatch.setattr(Pretrain, "init", other)
    with pytest.raises(UserError, match=r"does not fit this model: params.log_scale has shape \(\), here \(2,\); use"):
        fit(config, whole)


def test_a_batch_that_does_not_divide_is_refused(write_dataset, tmp_path):
    with pytest.raises(UserError, match="batch_size is 12, not a multiple of the 8 devices; use 8 or 16"):
        fit(configure(write_dataset(), batch_size=12), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_flipped_bits_in_a_checkpoint_fall_back_to_an_older_one(finished, capfd):
    config, whole = finished
    final = final_arrays(whole)
    files = [p for p in (whole / "checkpoints" / "6").rglob("*") if p.is_file() and p.stat().st_size > 1000]
    victim = max(files, key=lambda p: p.stat().st_size)
    blob = bytearray(victim.read_bytes())
    blob[len(blob) // 2] ^= 4
    victim.write_bytes(blob)
    assert checkpoint.load_model(whole).step == 4
    with pytest.raises(UserError, match="differ from their digests"):
        checkpoint.load_model(whole, 6)
    fit(config, whole)
    out = capfd.readouterr().out
    assert "checkpoint 6 is damaged" in out and "from step 4 to 6" in out
    assert (whole / "damaged" / "6").exists()
    assert_identical(final_arrays(whole), final)


def test_damaged_digests_and_a_second_damage_of_one_step_fall_back_too(finished):
    config, whole = finished
    final = final_arrays(whole)
    for _ in range(2):
        (whole / "checkpoints" / "6" / "digests.json").write_bytes(b"\xff{")
        fit(config, whole)
        assert_identical(final_arrays(whole), final)
    assert sorted(p.name for p in (whole / "damaged").iterdir()) == ["6", "6.1"]


def of_an_earlier_version(workdir, step, digests):
    """Changes a checkpoint to the form of earlier versions: digests beside it, or none after a kill."""
    old = workdir / "digests" / f"{step}.json"
    old.parent.mkdir(exist_ok=True)
    (workdir / "checkpoints" / str(step) / "digests.json").rename(old)
    if not digests:
        old.unlink()


def test_digests_are_part_of_a_checkpoint_before_it_counts(finished, monkeypatch):
    """Digests of an earlier checkpoint of the same step are out of date; a save that is cut off leaves nothing."""
    config, whole = finished
    of_an_earlier_version(whole, 6, digests=True)
    shutil.rmtree(whole / "checkpoints" / "6")
    monkeypatch.setattr(checkpoint_folder, "write_digests", lambda folder: 1 / 0)
    with pytest.raises(UserError, match="a checkpoint could not be saved"):
        fit(config, whole)
    assert "6" not in [path.name for path in (whole / "checkpoints").iterdir()]
    monkeypatch.undo()
    fit(config, whole)
    assert checkpoint.load_model(whole).step == 6 and not list((whole / "digests").iterdir())
    assert json.loads((whole / "checkpoints" / "6" / "digests.json").read_bytes())


@pytest.mark.parametrize("digests", [True, False])
def test_a_checkpoint_of_an_earlier_version_opens_and_gets_digests(finished, digests):
    config, whole = finished
    of_an_earlier_version(whole, 6, digests)
    assert checkpoint.load_model(whole).step == 6
    fit(config, whole)
    assert (whole / "checkpoints" / "6" / "digests.json").exists() != digests, "old digests stay where they are"
    victim = next((whole / "checkpoints" / "6" / "model").glob("ocdbt.process_0/d/*"))
    blob = bytearray(victim.read_bytes())
    blob[len(blob) // 2] ^= 1
    victim.write_bytes(blob)
    assert checkpoint.load_model(whole).step == 4


def test_a_final_evaluation_that_was_cut_off_is_made_up_for(finished):
    config, whole = finished
    scores = (whole / "evaluation" / "scores.json").read_text()
    shutil.rmtree(whole / "evaluation")
    fit(config, whole)
    assert (whole / "evaluation" / "scores.json").read_text() == scores


def test_an_evaluation_that_a_stop_left_out_is_made_up_for(write_dataset, tmp_path):
    config = configure(write_dataset(), schedule__eval_every=2)
    with before_step(4, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(SystemExit):
        fit(config, tmp_path / "run")
    fit(config, tmp_path / "run")
    rows = metrics.read(tmp_path / "run")
    assert [row["step"] for row in rows if row["kind"] == "eval"] == [2, 4, 6]
    assert [(row["step"], row["event"]) for row in rows if "seconds" in row] == [(4, "ended"), (6, "ended")]
    learnt = [(row["step"], row["s1_to_s2/gallery_size"]) for row in rows if row["kind"] == "train_eval"]
    assert learnt == [(2, 8), (6, 8)], "as many training records as the evaluation split has"


def test_scores_are_shown_after_each_evaluation_but_the_last():
    """The caller shows the last ones, when the run has ended."""
    steps = []
    shown = hooks.ShowScores(lambda: steps.append(step), (4, 0, 3), 12, lambda: None)
    for step in range(1, 13):
        if shown.due(step, stopping=step == 9):
            shown.after(step, None)
    assert steps == [3, 4, 6, 8]


def test_a_part_of_the_split_is_scored_for_the_curves_and_changes_nothing_else(finished, tmp_path):
    config, whole = finished
    quick = configure(config.data.dir, schedule__quick_eval_every=2, schedule__quick_eval_records=5)
    fit(quick, tmp_path / "quick", report=True)
    rows = [row for row in metrics.read(tmp_path / "quick") if row["kind"] == "quick_eval"]
    assert [(row["step"], row["s1_to_s2/gallery_size"]) for row in rows] == [(2, 5), (4, 5), (6, 5)]
    part = Records(config.data.dir, "test", SENSORS).evenly_spaced(5)
    assert part.location_ids == ["place0", "place1", "place3", "place5", "place7"]
    one = mesh.make(jax.devices()[:1])
    state = init_state(open_run(quick)[0], make_optimizer(config.optimizer, 8, 6), config, one).replace(
        **checkpoint.load_model(tmp_path / "quick").variables)
    expected = evaluator(open_run(quick)[0], part, 8, one)(state).scores()
    np.testing.assert_allclose(rows[-1]["space/s1/rank"], expected["space"]["s1"]["rank"], rtol=1e-4)
    for name in ("scores.json", "tables.json"):  # the evaluation at the end is that of the whole split
        assert ((tmp_path / "quick" / "evaluation" / name).read_text() == (whole / "evaluation" / name).read_text())
    assert_identical(final_arrays(tmp_path / "quick"), final_arrays(whole))
    assert [file.name for file in (tmp_path / "quick" / "curves").iterdir()] == ["part.json"]
    titles = re.findall("<h2>(.*?)</h2>", (tmp_path / "quick" / "report.html").read_text())
    assert "Quick evaluation during training" in titles and "Evaluation during training" not in titles
    assert not any(row["kind"] == "quick_eval" for row in metrics.read(whole))
    fit(quick, whole)  # how often one looks may change


def test_a_finished_run_that_is_started_again_is_no_other_run(finished):
    config, whole = finished
    run, rows = (whole / "run.json").read_text(), (whole / "metrics.jsonl").read_text()
    started = json.loads(run)["started"]
    (whole / "run.json").write_text(run.replace(started, "2020-01-01T00:00:00"))
    fit(config, whole)
    assert json.loads((whole / "run.json").read_text())["started"] == "2020-01-01T00:00:00"
    assert (whole / "metrics.jsonl").read_text() == rows


def test_what_a_kill_left_of_a_save_is_removed(finished):
    config, whole = finished
    left = whole / "checkpoints" / "5.orbax-checkpoint-tmp"
    left.mkdir()
    (left / "part").write_bytes(b"x")
    checkpoint.load_model(whole)
    assert left.exists(), "a reader removes nothing"
    fit(config, whole)
    assert sorted(path.name for path in (whole / "checkpoints").iterdir()) == ["2", "4", "6"]


def test_a_second_start_does_not_disturb_a_run(finished, monkeypatch):
    config, folder = finished
    saving = folder / "checkpoints" / "5.orbax-checkpoint-tmp"
    saving.mkdir()
    claim = workdir_lib.claim
    monkeypatch.setattr(workdir_lib, "claim", lambda folder: claim(folder, patience=0))
    with claim(epath.Path(folder)), pytest.raises(UserError, match="is in use by process"):
        fit(config, folder)
    assert saving.exists()


def test_a_damaged_checkpoint_without_digests_falls_back(finished, capfd):
    """A power cut between the end of a save and its digests, in an earlier version."""
    config, whole = finished
    arrays = final_arrays(whole)
    of_an_earlier_version(whole, 6, digests=False)
    (whole / "checkpoints" / "6" / "facts" / "metadata").write_bytes(b"")
    assert checkpoint.load_model(whole).step == 4
    with pytest.raises(UserError, match="no usable checkpoint in .*: checkpoint 6 cannot be read"):
        checkpoint.load_model(whole, 6)
    fit(config, whole)
    assert "checkpoint 6 is damaged (it has no digests and cannot be read: " in capfd.readouterr().out
    assert_identical(final_arrays(whole), arrays)


def test_damaged_notes_of_orbax_are_one_line(finished):
    """Earlier versions kept them."""
    config, whole = finished
    for text in (b"[]", b'{"item_handlers": 3}'):
        (whole / "checkpoints" / "2" / "_CHECKPOINT_METADATA").write_bytes(text)
        with pytest.raises(UserError, match="cannot be listed .*_CHECKPOINT_METADATA' below"):
            checkpoint.load_model(whole)


def test_the_similarity_scale_leaves_its_clamp_again(write_dataset):
    """Clamped where CLIP clamps it: a clamp inside the loss would have no gradient above it."""
    task, records = open_run(configure(write_dataset()))
    params, stats = task.init(jax.random.key(0))
    above = task.project(params | {"log_scale": jnp.float32(5.0)})
    np.testing.assert_allclose(jnp.exp(above["log_scale"]), 100.0, rtol=1e-5)
    batch = {k: jnp.stack([records[n][k] for n in range(8)]) for k in records[0]}
    gradient = jax.jit(jax.grad(lambda p: task.loss(p, stats, batch, jax.random.key(0))[0]))(above)
    assert gradient["log_scale"] > 0, "random embeddings want a lower scale"


def test_a_full_disk_stops_with_one_line_and_keeps_what_was_written(finished, tmp_path, monkeypatch):
    config, whole = finished
    usage = shutil.disk_usage(tmp_path)
    full = type(usage)(usage.total, usage.total, 1000)
    with (before_step(3, lambda: monkeypatch.setattr(shutil, "disk_usage", lambda _: full)),
          pytest.raises(UserError, match="0 MB free, checkpoint 4 needs .* MB; older checkpoints are untouched")):
        fit(config, tmp_path / "part")
    assert checkpoint.load_model(tmp_path / "part").step == 2
    monkeypatch.undo()
    fit(config, tmp_path / "part")
    assert_identical(final_arrays(tmp_path / "part"), final_arrays(whole))


def test_damaged_records_stop_a_run_or_are_replaced_and_counted(write_dataset, tmp_path):
    folder = write_dataset()
    shard = sorted(folder.glob("*-train.*"))[0]
    blob = bytearray(shard.read_bytes())
    blob[-100] ^= 1
    shard.write_bytes(blob)
    with pytest.raises(UserError, match=f"shard '{shard}' is damaged at record 7 "):
        fit(configure(folder), tmp_path / "run")
    fit(configure(folder, data__max_bad_records=1), tmp_path / "run")  # the same run goes on
    events = [row["event"] for row in metrics.read(tmp_path / "run") if row["kind"] == "event"]
    assert "1 damaged records replaced so far" in events and checkpoint.load_model(tmp_path / "run").step == 6


def test_a_checkpoint_of_eight_devices_continues_on_one(finished):
    config, whole = finished
    expected = final_arrays(whole)[1]["params"]
    shutil.rmtree(whole / "checkpoints" / "6")
    fit(config, whole, jax.devices()[:1])
    step, variables = final_arrays(whole)
    assert step == 6
    # Two of the six steps added up float32 in another order; Adam turns rounding of small gradients into small steps.
    for path, error in jax.tree_util.tree_leaves_with_path(relative_error(variables["params"], expected)):
        assert error < 0.05, path


def test_metrics_after_the_restored_step_are_removed(tmp_path):
    writer = metrics.MetricWriter(tmp_path, 0)
    for step in range(1, 6):
        writer.write(step, "train", {"loss": float(step)})
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "kin')
    writer = metrics.MetricWriter(tmp_path, 3)
    writer.write(4, "train", {"loss": 40.0})
    writer.close()
    assert [(row["step"], row["loss"]) for row in metrics.read(tmp_path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]


def test_optimizer_of_the_config_reaches_the_step(write_dataset):
    """Guards against a branch that is never taken: LARS state is a trace, AdamW's has two moments."""
    for name, expected in (("lars", "TraceState"), ("adamw", "ScaleByAdamState")):
        config = configure(write_dataset(), optimizer__name=name)
        task, _ = open_run(config)
        state = init_state(task, make_optimizer(config.optimizer, 8, 6), config, mesh.make(jax.devices()[:1]))
        assert expected in str(jax.tree.structure(state.opt_state)), name


def test_averaged_weights_are_kept_saved_resumed_and_used(write_dataset, tmp_path):
    config = configure(write_dataset(), optimizer__ema=0.9, optimizer__learning_rate=0.01)
    fit(config, tmp_path / "whole")
    step, averaged = final_arrays(tmp_path / "whole")
    plain = configure(config.data.dir, optimizer__learning_rate=0.01)
    fit(plain, tmp_path / "plain")
    assert step == 6 and max(jax.tree.leaves(relative_error(averaged, final_arrays(tmp_path / "plain")[1]))) > 1e-3
    losses = [[row["loss"] for row in metrics.read(tmp_path / name) if row["kind"] == "train"]
              for name in ("whole", "plain")]
    assert losses[0] == losses[1], "the average changes nothing in training itself"
    with before_step(6, lambda: (_ for _ in ()).throw(Killed())), pytest.raises(Killed):
        fit(config, tmp_path / "part")
    fit(config, tmp_path / "part")
    assert_identical(final_arrays(tmp_path / "part"), (step, averaged))
    task, records = open_run(config)
    evaluate = evaluator(task, Records(config.data.dir, "test", SENSORS), 8, mesh.make(jax.devices()[:1]))
    optimizer = make_optimizer(config.optimizer, 8, 6)
    state = init_state(task, optimizer, config, mesh.make(jax.devices()[:1])).replace(average=averaged)
    scores = evaluate(state).scores()
    written = json.loads((tmp_path / "whole" / "evaluation" / "scores.json").read_text())
    assert scores["s1_to_s2"] == written["s1_to_s2"]
