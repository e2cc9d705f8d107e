"""Experiments: the grid and its order, settings chosen on validation, leaks, failures, shared work, verdicts."""

import argparse
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs.experiment import VARIANTS
from dual_encoder.config import parse
from dual_encoder.errors import UserError
from dual_encoder.evaluation.per_image import PerImage
from dual_encoder.experiment import __main__ as command_line
from dual_encoder.experiment import beside, leaks, page, work
from dual_encoder.experiment.analysis import differences, means
from dual_encoder.experiment.cells import cells, command, configuration
from dual_encoder.experiment.plan import Plan, load
from dual_encoder.experiment.results import Arm, Results, collect
from dual_encoder.experiment.tables import latex, markdown, tables_of
from dual_encoder.runtime import mesh
from dual_encoder.tasks.build import AnyConfig
from tests import commands
from tests.runs import VIT

ROOT = pathlib.Path(__file__).parent.parent


def initialisation(name, **keys):
    return {"name": name, "pretrain": "", "keys": {}, "init_from": "", "like": "", "cell_keys": {}, "tasks": ()} | keys


def task(name, **keys):
    empty = {"keys": {}, "metric": "miou", "candidates": (), "fractions": ()}
    return {"name": name, "config": "configs/finetune.py:water_weak"} | empty | keys


def plan(**changes):
    return parse(Plan, {
        "title": "A test", "encoder": {"width": 8}, "fractions": (0.5, 1.0), "candidate_fraction": 1.0, "folds": 2,
        "groups": "place", "pretrain_per_fold": True, "seeds": 2, "pretrain_seeds": 1, "keep_models": False,
        "initialisations": [initialisation("dual", pretrain="configs/pretrain.py:smoke"), initialisation("scratch")],
        "tasks": [task("water")], "comparisons": [("dual", "scratch")], "margin": 0.01} | changes, name="plan")


@pytest.mark.quick
def test_the_grid_is_whole_and_a_cell_stands_behind_those_that_it_needs():
    every = cells(plan(tasks=[task("water", candidates=({"seed": 1}, {"seed": 2})), task("other")]))
    assert len({cell.name for cell in every}) == len(every)
    kinds = [cell.kind for cell in every]
    assert (kinds.count("pretrain"), kinds.count("candidate")) == (2, 2 * 2 * 2)
    assert kinds.count("score") == 2 * 2 * 2 * 2 * 2  # tasks, fractions, seeds, folds, initialisations
    for at, cell in enumerate(every):
        assert {other.name for other in every[:at]} >= set(cell.needs)
    last = every[-1]
    assert last.needs == () and "dual" in every[-2].name
    assert every[-2].needs == (f"pretrain/dual/fold{every[-2].fold}/seed0",)


@pytest.mark.quick
def test_a_cell_is_configured_by_the_plan(tmp_path):
    planned = plan(tasks=[task("water", keys={"optimizer": {"learning_rate": 0.5}})], initialisations=[
        initialisation("dual", pretrain="configs/pretrain.py:smoke", cell_keys={"frozen": True}),
        initialisation("scratch")])
    first, *_, cell = [cell for cell in cells(planned) if cell.initialisation.name == "dual"]
    values = configuration(planned, cell, tmp_path)
    assert values["optimizer"]["learning_rate"] == 0.5 and values["optimizer"]["name"] == "adamw"
    assert values["frozen"] and values["encoder"]["width"] == 8 and values["seed"] == cell.seed == 1
    assert values["init_from"] == str(tmp_path / "pretrain/dual/fold1/seed0")
    assert values["data"]["subset"] == {"fraction": 1.0, "folds": 2, "fold": 1, "groups": "place", "validate": False,
                                        "seed": 1}
    assert first.kind == "pretrain" and configuration(planned, first, tmp_path)["data"]["subset"]["fold"] == 0
    arguments = command(values, "configs/finetune.py:water_weak", tmp_path / "w")
    assert {"--config=configs/finetune.py:water_weak", "--config.optimizer.learning_rate=0.5", "--config.frozen=True",
            "--config.data.subset.fold=1"} < set(arguments) and len(arguments) < 14


@pytest.mark.quick
def test_the_best_candidate_on_validation_is_used(tmp_path):
    planned = plan(tasks=[task("water", candidates=({"seed": 7}, {"batch_size": 3}))], initialisations=[
        initialisation("scratch")], comparisons=())
    for number, value in enumerate((0.3, 0.4)):
        folder = tmp_path / f"candidates/water/scratch/fold1/candidate{number}/evaluation"
        folder.mkdir(parents=True)
        (folder / "scores.json").write_text(json.dumps({"step": 1, "miou": value}))
    tried, cell = [next(cell for cell in cells(planned) if (cell.kind, cell.fold) == (kind, 1))
                   for kind in ("candidate", "score")]
    assert configuration(planned, cell, tmp_path)["batch_size"] == 3
    assert configuration(planned, tried, tmp_path)["data"]["subset"]["validate"]
    (folder / "scores.json").write_text(json.dumps({"step": 1, "accuracy": 1.0}))
    with pytest.raises(UserError, match="has no 'miou'; it has accuracy, step: change the task's metric"):
        configuration(planned, cell, tmp_path)


@pytest.mark.quick
@pytest.mark.parametrize("changes, message", [
    ({"fraction": 1}, "unknown config key 'plan.fraction'; did you mean 'fractions'"),
    ({"fractions": (0.0,)}, r"plan.fractions is 0.0; expected a share in \(0, 1\]"),
    ({"comparisons": [("dual", "simclr")]}, "plan.comparisons is .*; expected two of dual, scratch"),
    ({"initialisations": [initialisation("a b")]}, "plan.initialisations.*name is 'a b'; expected letters"),
    ({"initialisations": [initialisation("a", like="b")]}, "plan.a.like is 'b'; expected one of a"),
    ({"initialisations": [initialisation("a", pretrain="x", init_from="y")]}, "at most one of pretrain, init_from"),
    ({"tasks": [task("water", candidates=({"seed": 1},))]}, "candidates is .*; expected \\(\\), or at least two"),
    ({"tasks": [task("water", fractions=(0.1,))]}, r"plan.water.fractions is \(0.1,\); expected some of \(0.5, 1.0\)"),
    ({"margin": 0.0}, "plan.margin is 0.0; expected more than 0"),
])
def test_a_mistake_in_a_plan_is_one_line(changes, message):
    with pytest.raises(UserError, match=message):
        plan(**changes)


@pytest.mark.quick
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_plans_of_the_project_are_sound(variant, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    planned = load(f"configs/experiment.py:{variant}")
    every = cells(planned)
    for cell in {(cell.kind, cell.initialisation.name, cell.task.name if cell.task else ""): cell for cell in every
                 if cell.kind != "score" or not cell.task.candidates}.values():
        parse(AnyConfig, configuration(planned, cell, tmp_path))


def counts(hits, images=40):
    """A table of images with `hits` right pixels of 100 each, [images]."""
    values = np.stack([hits, 100 - hits, 0 * hits, 0 * hits], axis=1).astype(np.float64)
    names = tuple(f"i{i:02d}" for i in range(images))
    return PerImage("counts", ("dry", "wet"), names, names, values)


def write_run(workdir, table, score):
    """The files of a run that an experiment reads."""
    (workdir / "evaluation").mkdir(parents=True, exist_ok=True)
    (workdir / "evaluation" / "segmentation.csv").write_text(table.to_csv())
    (workdir / "evaluation" / "scores.json").write_text(json.dumps({"step": 1, "miou": score, "accuracy": score}))
    dataset = {"fingerprint": "f" * 64, "classes": ["dry", "wet"], "label": {"kind": "pixel_classes"}}
    (workdir / "run.json").write_text(json.dumps({"dataset": dataset}))


def fake_run(fails=""):
    def run(config, devices, workdir, **_):
        workdir = pathlib.Path(workdir)
        if fails and fails in str(workdir):
            raise UserError("the disk is full")
        fold = config.data.subset.fold
        hits = np.random.default_rng([config.seed, fold, "dual" in str(workdir)]).integers(40, 90, 40)
        table = counts(hits)
        part = slice(20 * fold, 20 * fold + 20)
        write_run(workdir, PerImage(table.kind, table.classes, table.ids[part], table.places[part], table.values[part]),
                  float(hits[part].mean() / 100))
        print("a line of the run")
    return run


@pytest.fixture
def light(monkeypatch):
    """Runs that only write files, without data."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(work, "run", fake_run())
    monkeypatch.setattr(work, "write_report", lambda workdir: None)
    monkeypatch.setattr(leaks, "check", lambda values: ("no leak",))
    return monkeypatch


def planned_cells(**changes):
    planned = plan(**changes)
    return planned, cells(planned)


@pytest.mark.quick
def test_all_cells_run_once_and_a_second_start_runs_none(light, tmp_path):
    planned, every = planned_cells()
    ended = []
    work.work(planned, every, tmp_path, None, lambda cell, outcome: ended.append((cell.name, outcome.state)))
    assert [name for name, _ in ended] == [cell.name for cell in every] and {state for _, state in ended} == {"done"}
    assert "a line of the run" in (tmp_path / every[0].name / "log.txt").read_text()
    note = work.outcome(tmp_path, every[-1].name)
    assert note.digest == work.digest(tmp_path / every[-1].name) and note.command[0].startswith("--config=configs/")
    light.setattr(work, "run", lambda *args, **kwargs: pytest.fail("it ran again"))
    work.work(planned, every, tmp_path, None)
    grown, more = planned_cells(seeds=3)
    light.setattr(work, "run", fake_run())
    work.work(grown, more, tmp_path, None, lambda cell, outcome: ended.append((cell.name, "")))
    assert len(ended) == len(more), "a plan that grew runs the new cells alone"


@pytest.mark.quick
def test_a_cell_of_another_configuration_is_named(light, tmp_path):
    planned, every = planned_cells()
    work.work(planned, every, tmp_path, None)
    other, changed = planned_cells(encoder={"width": 16})
    with pytest.raises(UserError, match=r"pretrain/dual/fold0/seed0' was made with config.encoder.width=8, the plan "
                                        "now says 16; use another --out"):
        work.work(other, changed, tmp_path, None)


@pytest.mark.quick
def test_the_others_go_on_when_a_cell_fails_and_the_report_names_it(light, tmp_path):
    planned, every = planned_cells()
    light.setattr(work, "run", fake_run(fails="cells/water/dual/fraction1/fold0/seed1"))
    work.work(planned, every, tmp_path, None)
    results = collect(planned, every, tmp_path)
    assert [outcome.state for outcome in results.outcomes.values()].count("failed") == 1
    found = {(mean.initialisation, mean.fraction): mean for mean in means(results)}
    assert found["dual", 1.0].score.seeds == 1 and found["dual", 0.5].score.seeds == 2
    whole = differences(results)
    assert [one.left_out for one in whole] == [0, 1] and [one.comparison.difference.seeds for one in whole] == [2, 1]
    text = page.write(results, tmp_path).read_text()
    assert "Missing runs: 1 of 18" in text and "the disk is full" in text and "(1 cells missing)" in text
    assert "without 1 seeds, whose cells are missing" in text
    work.forget_failures(every, tmp_path)
    light.setattr(work, "run", fake_run())
    work.work(planned, every, tmp_path, None)
    assert "Missing cells" not in page.write(collect(planned, every, tmp_path), tmp_path).read_text()


@pytest.mark.quick
def test_cells_that_need_a_failed_one_fail_and_say_so(light, tmp_path):
    planned, every = planned_cells()
    light.setattr(work, "run", fake_run(fails="pretrain/dual/fold1"))
    work.work(planned, every, tmp_path, None)
    states = {cell.name: work.outcome(tmp_path, cell.name) for cell in every}
    for name, outcome in states.items():
        lost = "pretrain/dual/fold1" in name or ("/dual/" in name and "fold1" in name)
        assert outcome.state == ("failed" if lost else "done"), name
    assert states["cells/water/dual/fraction1/fold1/seed0"].message == (
        "it needs 'pretrain/dual/fold1/seed0', which failed")
    assert differences(collect(planned, every, tmp_path))[0].reason == "no repetition is whole in both"


def _share(folder, name, dies_in="nowhere"):
    def run(config, devices, workdir, **options):
        if dies_in in str(workdir):
            os.kill(os.getpid(), signal.SIGKILL)
        fake_run()(config, devices, workdir, **options)

    light = pytest.MonkeyPatch()
    light.chdir(ROOT)
    light.setattr(work, "run", run)
    light.setattr(work, "write_report", lambda workdir: None)
    light.setattr(leaks, "check", lambda values: ("no leak",))
    planned, every = planned_cells()
    work.work(planned, every, pathlib.Path(folder), None,
              lambda cell, outcome: open(f"{folder}/{name}.txt", "a").write(cell.name + "\n"))


def test_processes_share_the_cells_and_run_each_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_share, args=(str(tmp_path), name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    ran = [line for name in "ab" if (tmp_path / f"{name}.txt").exists()
           for line in (tmp_path / f"{name}.txt").read_text().split()]
    assert sorted(ran) == sorted(cell.name for cell in planned_cells()[1])


def test_an_experiment_that_was_killed_goes_on(tmp_path):
    context = multiprocessing.get_context("spawn")
    for dies_in in ("pretrain/dual/fold1", "cells/water/scratch/fraction1/fold1", "nowhere"):
        worker = context.Process(target=_share, args=(str(tmp_path), "log", dies_in))
        worker.start()
        worker.join()
        assert worker.exitcode == (0 if dies_in == "nowhere" else -signal.SIGKILL)
    ran = (tmp_path / "log.txt").read_text().split()
    assert sorted(ran) == sorted(cell.name for cell in planned_cells()[1])


@pytest.mark.quick
def test_the_report_has_verdicts_curves_and_tables(light, tmp_path):
    planned, every = planned_cells()
    work.work(planned, every, tmp_path, None)
    results = collect(planned, every, tmp_path)
    text = page.write(results, tmp_path).read_text()
    for part in ("A test", "Verdicts", "dual against scratch", "Score by share of the labels", "Paired differences",
                 "no leak", "python main.py --config=configs/finetune.py:water_weak", "Holm 1979"):
        assert part in text
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len([row for row in rows if row["metric"] == "miou" and row["kind"] == "score"]) == 16
    images = list(csv.DictReader(io.StringIO((tmp_path / "images.csv").read_text())))
    assert len(images) == 2 * 2 * 2 * 40 and {row["group"] for row in images} == {f"i{i:02d}" for i in range(40)}
    tables = tables_of(results, means(results), differences(results), tmp_path)
    assert "| dual |" in markdown(tables) and r"\toprule" in latex(tables) and "%" not in latex(tables).replace(
        r"\%", "").replace("% ", "")
    assert page.write(results, tmp_path).read_text() == text


BENCH = """\
dataset,method,metric_name,metric_value,ci_lower,ci_upper,n_test,seed,name,normalization,image_size,partition,bands
m-eurosat,linear,accuracy,0.904,0.884,0.921,1000,0,prithvi,bandspec_zscore,224.0,default,all
m-eurosat,knn5,accuracy,0.816,0.791,0.843,1000,0,prithvi,bandspec_zscore,,0.01x_train,all
water,seg-fpn,mIoU,0.99,0.0,0.0,40,0,dual,identity,224,default,rgb
m-eurosat,linear,accuracy,,,,1000,0,failed,identity,224,default,all
m-eurosat,profile,params_m,87.3,0.0,0.0,1000,0,prithvi,bandspec_zscore,224.0,default,all
"""


@pytest.mark.quick
def test_results_of_torchgeo_bench_stand_beside_with_their_protocol_and_change_nothing(light, tmp_path):
    planned, every = planned_cells()
    work.work(planned, every, tmp_path, None)
    results = collect(planned, every, tmp_path)
    page.write(results, tmp_path)
    before = {name: (tmp_path / name).read_text() for name in ("report.html", "results.csv", "tables.md", "images.csv")}
    (tmp_path / "bench.csv").write_text(BENCH)
    page.write(results, tmp_path, beside.read([tmp_path / "bench.csv"]))
    ours = list(csv.DictReader(io.StringIO(before["results.csv"])))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert rows[:len(ours)] == ours and {row["protocol"] for row in ours} == {"experiment"}
    assert [(row["task"], row["initialisation"], row["fraction"], row["metric"], row["value"], row["protocol"])
            for row in rows[len(ours):]] == [
        ("m-eurosat", "prithvi", "1", "linear/accuracy", "0.904",
         "torchgeo-bench: linear, all bands, 224 px, normalization bandspec_zscore"),
        ("m-eurosat", "prithvi", "0.01", "knn5/accuracy", "0.816", "torchgeo-bench: knn5, all bands, native size, "
         "normalization bandspec_zscore, partition 0.01x_train"),
        ("water", "dual", "1", "seg-fpn/mIoU", "0.99", "torchgeo-bench: seg-fpn, rgb bands, 224 px, normalization "
         "identity"),  # the names of ours: still a row of its own
        ("m-eurosat", "failed", "1", "linear/accuracy", "", "torchgeo-bench: linear, all bands, 224 px, normalization "
         "identity")]
    tables = (tmp_path / "tables.md").read_text()
    assert tables.startswith(before["tables.md"].rstrip()) and "| 0.904 | [0.884, 0.921] | 1000 |" in tables
    assert (tmp_path / "images.csv").read_text() == before["images.csv"] and r"bandspec\_zscore" in (
        tmp_path / "tables.tex").read_text()
    # Without the one section the page is that of before: no mean, curve or verdict has changed.
    text = (tmp_path / "report.html").read_text()
    start = text.index("Beside: results of torchgeo-bench")
    start, end = text.rindex("<", 0, start - 1), text.index(">Leaks<", start)
    assert text[start:end].count("<tr>") == 5 and text[:start] == before["report.html"][:start]
    assert text[end:] == before["report.html"][before["report.html"].index(">Leaks<"):]


@pytest.mark.quick
@pytest.mark.parametrize(("content", "message"), [
    ("a,b\n1,2\n", "lacks the columns dataset, method, metric_name, metric_value, name, which"),
    (BENCH.replace("0.904", "high"), "line 2: metric_value is 'high', expected a number"),
    (BENCH.splitlines()[0] + "\n", "holds no row of the methods knn, linear or seg"),
    ("\xff", "lacks the columns"), (None, "cannot be read as CSV .*No such file"),
])
def test_a_table_that_is_not_of_torchgeo_bench_is_one_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bench.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        beside.read([tmp_path / "bench.csv"])
    assert "\n" not in str(caught.value)


def arms_of(rng, gain, seeds=5):
    """Two arms on the same 40 images, the first better by `gain` points of accuracy; places and seeds differ."""
    of_image = np.clip(rng.normal(60, 12, 40), 5, 90)
    arms = []
    for name, better in (("dual", gain), ("scratch", 0.0)):
        tables = {seed: counts(rng.binomial(100, np.clip(of_image + better + rng.normal(0, 2), 1, 99) / 100))
                  for seed in range(seeds)}
        arms.append((name, tables))
    return arms


def judged(rng, gain):
    planned = plan(fractions=(1.0,), seeds=5, folds=0, pretrain_per_fold=False,
                   tasks=[task("water", metric="accuracy")])
    arms = [Arm(planned.tasks[0], name, 1.0, tables, ()) for name, tables in arms_of(rng, gain)]
    return differences(Results(planned, [], {}, arms))[0]


def test_equal_arms_are_called_different_in_at_most_five_of_a_hundred_experiments():
    rng = np.random.default_rng(0)
    wrong = [judged(rng, 0.0).verdict for _ in range(100)]
    assert sum(word in ("gain", "loss") for word in wrong) <= 5


@pytest.mark.quick
def test_a_true_gain_is_found_and_its_opposite_is_a_loss():
    rng = np.random.default_rng(1)
    assert judged(rng, 8.0).verdict == "gain" and judged(rng, -8.0).verdict == "loss"


@pytest.fixture(scope="module")
def data(write_dataset):
    return write_dataset(train=24, test=12, labels="pixel_classes")


def small_plan(tmp_path, data, **changes):
    """A plan file whose runs take seconds."""
    size = {"augment": {"crop": 32}, "batch_size": 8, "schedule": {"steps": 2, "log_every": 1, "checkpoint_every": 0}}
    pretrain = size | {"data": {"dir": str(data), "split": "train"}, "projection": {"hidden": 16, "dim": 8}}
    values = dataclasses.asdict(plan(**{
        "encoder": VIT,
        "fractions": (1.0,), "seeds": 1, "folds": 2, "initialisations": [
            initialisation("dual", pretrain="configs/pretrain.py:smoke", keys=pretrain), initialisation("scratch")],
        "tasks": [task("water", keys=size | {"decoder_width": 4, "data": {"dir": str(data), "split": "train"}})],
    } | changes))
    file = tmp_path / "plan.py"
    file.write_text(f"from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({values})\n")
    return file


def experiment(*arguments, module="dual_encoder.experiment"):
    return commands.run("-m", module, *arguments, timeout=600)


@pytest.mark.slow
def test_the_command_runs_lists_resumes_and_reproduces(tmp_path, data):
    file, out = small_plan(tmp_path, data), tmp_path / "out"
    listed = experiment(f"--plan={file}", f"--out={out}", "--list")
    assert listed.returncode == 0 and len(listed.stdout.splitlines()) == 6
    alone = experiment(f"--plan={file}", f"--out={out}", "--cell=2")
    assert alone.returncode == 2
    assert "cell 2 needs cell 0, 'pretrain/dual/fold0/seed0', which is not done" in alone.stderr
    done = experiment(f"--plan={file}", f"--out={out}", "--jobs=2")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "6/6 " in done.stdout and "report: " in done.stdout
    assert "recall@1" in (out / "tables.md").read_text()
    assert "Where dual and scratch disagree most" in (out / "report.html").read_text()
    again = experiment(f"--plan={file}", f"--out={out}")
    assert again.returncode == 0 and "6 runs, 6 of them done" in again.stdout and "ETA" not in again.stdout
    repeated = experiment(out / "report.html", module="dual_encoder.reproduce")
    assert repeated.returncode == 0 and "the bits agree" in repeated.stdout, repeated.stdout + repeated.stderr
    cell = out / "cells/water/dual/fraction1/fold0/seed0"
    scores = json.loads((cell / "evaluation" / "scores.json").read_text())
    (cell / "evaluation" / "scores.json").write_text(json.dumps(scores | {"miou": 0.999}))
    differs = experiment(cell, module="dual_encoder.reproduce")
    assert differs.returncode == 1 and "miou: 0.999 then" in differs.stdout


def test_a_planted_leak_is_refused_by_name(tmp_path, data):
    planned = load(str(small_plan(tmp_path, data, pretrain_per_fold=False)))
    every = cells(planned)
    work.work(planned, every, tmp_path / "out", mesh.make(jax.devices()[:1]))
    outcomes = {cell.name: work.outcome(tmp_path / "out", cell.name) for cell in every}
    assert outcomes["pretrain/dual/fold0/seed0"].state == "done"
    leaked = outcomes["cells/water/dual/fraction1/fold0/seed0"]
    assert leaked.state == "failed" and "12 of 12 test places are in the data of pre-training" in leaked.message
    assert "first 'train" in leaked.message
    sound = outcomes["cells/water/scratch/fraction1/fold0/seed0"]
    assert sound.state == "done" and sound.audit == (
        "none of 12 test places is among the 12 places of the split 'train' that the cell learns from",)


@pytest.mark.quick
@pytest.mark.parametrize("number, told", [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_a_process_that_memory_kills_is_told(monkeypatch, capsys, tmp_path, number, told):
    """The others do its runs; without a line the experiment would only take longer."""
    worker = subprocess.Popen([sys.executable, "-c", f"import os; os.kill(os.getpid(), {int(number)})"])
    monkeypatch.setattr(command_line.subprocess, "Popen", lambda *_, **__: worker)
    monkeypatch.setattr(command_line, "_work", lambda *_: worker.wait())
    monkeypatch.setattr(command_line, "_share_cores", lambda *_: None)
    monkeypatch.setattr(command_line.page, "write", lambda *_: "page")
    command_line._all(argparse.Namespace(plan="plan.py", jobs=2), plan(), [], tmp_path, [])
    said = capsys.readouterr().out
    assert ("1 of 2 processes were killed, " in said and "; lower --jobs" in said) == told
