"""The report of a run: what is on the page, what may be missing, and that nothing on it is active."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dual_encoder.errors import UserError
from dual_encoder.evaluation.retrieval import retrieval_table
from dual_encoder.evaluation.table import Column, Evaluation, Headline, Picture, Row, Table
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.report import html as page_html
from dual_encoder.report.curves import Panel, plot, thin
from dual_encoder.report.page import write_report
from dual_encoder.workdir.scores import save_curve_tables, save_evaluation
from tests import commands

pytestmark = pytest.mark.quick

SCORES = {"recall@1": 0.4, "recall@5": 0.75, "recall@10": None, "median_rank": 2.0, "mean_reciprocal_rank": 0.55,
          "gallery_size": 8}
ROW = ["0.400", "0.750", "–", "2", "0.550", "8"]  # SCORES, as the page shows them


class Page(html.parser.HTMLParser):
    """Tags that stand open or close wrongly, attributes, and the visible text in its cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.images, self.rows, self.text = [], [], [], [], [], ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data + " "
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def make_run(folder, **run):
    """A small pre-training run, as it was written before tables.json: 30 rows, resumed at step 20, one evaluation."""
    (folder / "evaluation").mkdir()
    (folder / "config.json").write_text(json.dumps({"task": "pretrain", "data": {"dir": "a/b", "threads": 3}}))
    (folder / "run.json").write_text(json.dumps({
        "task": "pretrain", "command": "python main.py", "started": "2026-11-23T10:00:00", "parameters": 22_400_000,
        "versions": {"jax": "0.10.2"}, "devices": {"platform": "cpu", "count": 8, "kind": "cpu"},
        "sensors": {"s1": SENSORS["s1_grd"].to_json()},
        "dataset": {"name": "s1s2_pairs", "config": "demo", "version": "1.0.0", "fingerprint": "f00d" * 16,
                    "classes": [], "source": {"licence": "CC-BY-4.0"}, "records": {"train": 1234},
                    "tensors": {"s1": {"dtype": "int16", "shape": [120, 120, 2]}}}} | run))
    rows = [{"step": 0, "kind": "event", "event": "started"}, {"step": 20, "kind": "event", "event": "resumed"}]
    rows += [{"step": t, "kind": "train", "loss": 3 / t, "pairs_per_second": 100.0 + t} for t in range(1, 31)]
    rows += [{"step": t, "kind": "eval", "s1_to_s2/recall@1": 0.4, "s2_to_s1/recall@1": 0.3} for t in (15, 30)]
    rows += [{"step": 30, "kind": "eval", "only/once": 1.0}]  # no curve
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "evaluation" / "scores.json").write_text(json.dumps(
        {"step": 30, "s1_to_s2": SCORES, "s2_to_s1": SCORES | {"recall@1": 0.3}}))
    return folder


KNN = Table(
    name="knn", title="Nearest neighbours", row_title="sensor",
    columns=(Column("top1", "accuracy", "share", "higher"), Column("error", "mean error", "number", "lower"),
             Column("neighbours", "neighbours", "count"), Column("part", "part", "percent", in_scores=False)),
    rows=(Row("s1", "S1", (0.5, 12.34567, 1200, 0.25)), Row("s2", "S2", (0.75, None, 1200, 0.125))),
    references=(Row("most_frequent", "most frequent class", (0.1, None, None, None)),),
    headlines=(Headline("s2", "top1", "accuracy of S2's neighbours"),), note="Classes of the nearest neighbours.",
    pictures=(Picture("knn_examples", "Some neighbours", "Left: the query."),))


def add_knn(folder):
    """Saves an evaluation that the report has never heard of, with two 'eval' rows."""
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    evaluation = Evaluation((retrieval_table({"s1_to_s2": SCORES}), KNN), {"knn_examples": picture})
    save_evaluation(epath.Path(folder), 30, evaluation)
    with open(folder / "metrics.jsonl", "a") as file:
        for step in (20, 30):
            file.write(json.dumps({"step": step, "kind": "eval", "knn/s1/top1": 0.5, "knn/s2/top1": 0.6, "knn/s1/error":
                                   3.0, "knn/s1/neighbours": 1200, "elsewhere/a": 1, "elsewhere/b": 2}) + "\n")


def read(path):
    return Page(path.read_text())


def test_page_shows_the_run(tmp_path):
    page = read(write_report(make_run(tmp_path)))
    for fact in ("pretrain · demo", "python main.py", "resumed once", "0.400", "recall@1 S1 → S2, gallery of 8", "0.1",
                 "loss at step 30", "22.4 M", "8 × CPU", "Checkpoint of step 30", "resumed at step 20", "f00d" * 16,
                 "CC-BY-4.0", "train 1,234", "dB (sigma0, GRD)", "120 x 120 px", "-1,254.8"):
        assert fact in page.text, fact
    assert ["data.threads", "3"] in page.rows and ["data.dir", '"a/b"'] in page.rows and ["jax", "0.10.2"] in page.rows
    assert {image["alt"] for image in page.images} == {"loss", "records per second", "recall@1"}


def test_a_new_evaluation_needs_no_change_of_the_report(tmp_path):
    add_knn(make_run(tmp_path))
    page = read(write_report(tmp_path))
    assert ["sensor", "accuracy ↑", "mean error ↓", "neighbours", "part"] in page.rows
    assert ["S1", "0.500", "12.35", "1,200", "25.0%"] in page.rows
    assert ["S2", "0.750", "–", "1,200", "12.5%"] in page.rows
    assert ["most frequent class", "0.100", "–", "–", "–"] in page.rows and ["S1 → S2", *ROW] in page.rows
    for fact in ("0.750 accuracy of S2's neighbours", "Nearest neighbours", "Classes of the nearest neighbours.",
                 "Some neighbours", "Left: the query.", "Checkpoint of step 30. One record per place"):
        assert fact in page.text, fact
    assert "Other results" not in page.text
    assert page.attributes.count(("class", "quiet")) == 2  # chance, and the most frequent class
    svg = {image["alt"]: base64.b64decode(image["src"].partition(",")[2]).decode() for image in page.images
           if "svg" in image["src"]}
    assert set(svg) == {"loss", "records per second", "recall@1", "accuracy", "mean error", "elsewhere", "s2 to s1"}
    assert ">S1<" in svg["accuracy"] and ">S2<" in svg["accuracy"] and ">a<" in svg["elsewhere"]


def test_panels_of_two_tables_are_told_apart(tmp_path):
    row = Row("s1", "S1", (0.5,))
    tables = [Table(name, name.upper(), "", (Column("top1", "accuracy", "share", "higher"),), (row,))
              for name in ("knn", "probe")]
    save_evaluation(epath.Path(tmp_path), 2, Evaluation(tuple(tables)))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(
        {"step": step, "kind": "eval", "knn/s1/top1": 0.5, "probe/s1/top1": 0.6}) + "\n" for step in (1, 2)))
    assert {image["alt"] for image in read(write_report(tmp_path)).images} == {"KNN: accuracy", "PROBE: accuracy"}


def test_old_scores_show_the_same_rows_as_tables(tmp_path):
    make_run(tmp_path)
    old = [row for row in read(write_report(tmp_path)).rows if row and row[0] in ("S1 → S2", "S2 → S1", "by chance")]
    scores = {"s1_to_s2": SCORES, "s2_to_s1": SCORES | {"recall@1": 0.3}}
    save_evaluation(epath.Path(tmp_path), 30, Evaluation((retrieval_table(scores),)))
    assert json.loads((tmp_path / "evaluation" / "scores.json").read_text()) == {"step": 30, **scores}
    rows = read(write_report(tmp_path)).rows
    assert len(old) == 3 and all(row in rows for row in old)


@pytest.mark.parametrize("damage", ["{", '{"step": 30}', '{"step": 30, "tables": [{"name": "x"}]}', "[1]",
                                    '{"step": 30, "tables": 7}'])
def test_damaged_tables_are_named_and_replaced_by_the_scores(tmp_path, damage):
    make_run(tmp_path)
    (tmp_path / "evaluation" / "tables.json").write_text(damage)
    page = read(write_report(tmp_path))
    assert ["S1 → S2", *ROW] in page.rows
    assert ("tables.json could not be read" in page.text) == (damage != "[1]")  # no step: another evaluation's


def test_tables_of_another_step_than_the_scores_are_not_shown(tmp_path):
    add_knn(make_run(tmp_path))
    (tmp_path / "evaluation" / "scores.json").write_text(json.dumps({"step": 60, "s1_to_s2": SCORES}))
    page = read(write_report(tmp_path))
    assert "Checkpoint of step 60" in page.text and "Nearest neighbours" not in page.text
    assert ["S1 → S2", *ROW] in page.rows


def test_the_learning_rate_follows_the_loss(tmp_path):
    make_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        for step in (31, 32):
            file.write(json.dumps({"step": step, "kind": "train", "a": 1.0, "loss": 1.0, "learning_rate": 1e-4}) + "\n")
    assert [image["alt"] for image in read(write_report(tmp_path)).images][1:5] == [
        "loss", "learning rate", "records per second", "a"]


@pytest.mark.parametrize(("started", "shown"), [("2026-11-23T10:00:00+02:00", "started 2026-11-23 10:00:00 UTC+02:00"),
                                                ("2026-11-23T10:00:00+00:00", "started 2026-11-23 10:00:00 UTC"),
                                                ("2026-11-23T10:00:00", "started 2026-11-23 10:00:00"),
                                                ("yesterday", "started yesterday")])
def test_start_shows_its_time_zone_if_it_has_one(tmp_path, started, shown):
    text = read(write_report(make_run(tmp_path, started=started))).text
    assert re.search(re.escape(shown) + r"(, resumed| *\n)", text), text[:200]


def test_retrieval_stands_beside_its_gallery_size_and_chance(tmp_path):
    page = read(write_report(make_run(tmp_path)))
    assert ["S1 → S2", *ROW] in page.rows
    assert ["by chance", "0.125", "0.625", "–", "4.5", "0.340", "8"] in page.rows  # 1/8, 5/8, (8+1)/2, H(8)/8


def test_a_headline_stands_beside_chance(tmp_path):
    """0.400 and 0.125 of a gallery of 8 are above and at 1/8; a median rank of 5 is worse than one of 4.5."""
    make_run(tmp_path)
    scores = {"s1_to_s2": SCORES, "s2_to_s1": SCORES | {"recall@1": 0.125}}
    retrieval = retrieval_table(scores)
    rank = dataclasses.replace(retrieval, name="again", keys=(), headlines=(Headline("s1_to_s2", "median_rank", "R"),),
                               rows=tuple(dataclasses.replace(row, values=(*row.values[:3], 5.0, *row.values[4:]))
                                          for row in retrieval.rows))
    save_evaluation(epath.Path(tmp_path), 30, Evaluation((retrieval, rank, KNN)))
    page = read(write_report(tmp_path))
    for fact in ("gallery of 8 by chance: 0.125 0.125", "gallery of 8 by chance: 0.125, not better",
                 "5 R by chance: 4.5, not better", "0.750 accuracy of S2's neighbours 0.1"):
        assert fact in " ".join(page.text.split()), fact
    assert page.attributes.count(("class", "bad")) == 2


def test_curves_hold_chance_and_the_same_scores_of_training_records(tmp_path):
    make_run(tmp_path)
    assert "Dashed: the same scores of training records" not in read(write_report(tmp_path)).text
    with open(tmp_path / "metrics.jsonl", "a") as file:
        for step in (15, 30):
            file.write(json.dumps({"step": step, "kind": "train_eval", "s1_to_s2/recall@1": 0.9}) + "\n")
    page = read(write_report(tmp_path))
    assert "Dashed: the same scores of training records" in page.text
    svg = next(base64.b64decode(image["src"].partition(",")[2]).decode() for image in page.images
               if image["alt"] == "recall@1")
    assert ">S1 → S2, training<" in svg and ">by chance<" in svg and "S2 → S1, training" not in svg


def test_the_page_says_how_long_the_run_took(tmp_path):
    make_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"batch_size": 10}))
    rows = [{"step": 0, "kind": "event", "event": "started"}]
    rows += [{"step": step, "kind": "train", "pairs_per_second": 20.0} for step in (50, 100)]
    rows += [{"step": 90, "kind": "event", "event": "resumed"}]  # from a checkpoint; its row was removed
    rows += [{"step": 100, "kind": "train", "pairs_per_second": 2.0},
             {"step": 100, "kind": "event", "event": "ended", "seconds": 3700.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = " ".join(read(write_report(tmp_path)).text.split())
    assert "100 s of training; 1:01:40 h with evaluation and saving" in text  # 100 / 2 + 10 / 0.2
    assert "2 steps per second; 20 records per second, median" in text and "ended at step" not in text


def test_segmentation_table_and_pictures_with_captions(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "scores.json").write_text(json.dumps({
        "step": 5, "miou": 0.625, "accuracy": 0.9, "iou": {"dry": 0.75, "wet": 0.5, "ice": None},
        "f1": {"dry": 0.8, "wet": 0.6, "ice": None}, "support": {"dry": 3000, "wet": 1000, "ice": 0}}))
    for name in ("segmentation_panels", "map"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "evaluation" / f"{name}.png")
    (tmp_path / "evaluation" / "map.txt").write_text("Places <b>of</b> the pairs")
    page = read(write_report(tmp_path))
    assert ["dry", "0.750", "0.800", "3,000", "75.0%"] in page.rows and ["ice", "–", "–", "0", "0.0%"] in page.rows
    assert ["whole split", "0.625", "0.900"] in page.rows
    for fact in ("0.625 mean IoU of 3 classes", "input, label", "Places <b>of</b> the pairs", "Checkpoint of step 5",
                 "Other results map"):
        assert fact in page.text, fact
    assert sum(image["src"].startswith("data:image/png;base64,") for image in page.images) == 2
    assert ("style", "background: rgb(33, 102, 200)") in page.attributes  # water's colour in label pictures


def test_old_retrieval_pictures_have_their_captions(tmp_path):
    make_run(tmp_path)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "evaluation" / "retrieval_s1_to_s2.png")
    text = read(write_report(tmp_path)).text
    assert "S1 → S2 Each row: the query" in text and "Green frame: the right answer" in text
    assert "Other results" not in text


def test_page_is_static_and_text_cannot_break_out(tmp_path):
    evil = '"><script>alert(1)</script><img src=http://example.org/x>'
    make_run(tmp_path, command=evil, versions={evil: evil}, task=evil)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 31, "kind": "train", evil: 1.0, "$x_$": 2.0}) + "\n")
    (tmp_path / "evaluation" / "more.json").write_text(json.dumps({evil: {evil: 1}}))
    page = read(write_report(tmp_path))
    assert [f"more: {evil}/{evil}", "1"] in page.rows
    assert not {"script", "iframe", "link", "object", "a"} & set(page.tags) and evil in page.text
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert sources and all(source.startswith("data:image/") for source in sources)
    assert not any(name.startswith("on") for name, _ in page.attributes)


@pytest.mark.parametrize("missing", ["run.json", "config.json", "metrics.jsonl", "evaluation/scores.json"])
def test_missing_parts_are_left_out(tmp_path, missing):
    make_run(tmp_path)
    (tmp_path / missing).unlink()
    page = read(write_report(tmp_path))
    gone = {"run.json": "fingerprint", "config.json": "Configuration", "metrics.jsonl": "Training",
            "evaluation/scores.json": "gallery size"}
    for name, fact in gone.items():
        assert (fact in page.text) == (name != missing), fact


def test_a_cut_off_last_line_is_tolerated_and_damage_is_named(tmp_path):
    make_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "kind": "tra')
    assert "damaged" not in read(write_report(tmp_path)).text
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "\x00garbage", *lines[1:]]))
    (tmp_path / "config.json").write_text("{")
    text = read(write_report(tmp_path)).text
    assert "metrics.jsonl: 2 damaged lines were left out (first: line 2)" in text and "config.json could not be" in text
    assert "loss at step 30" in text


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    make_run(tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 31, "kind": "train", "loss": NaN, "note": "text", "nothing": null}\n')
    assert "nan" in read(write_report(tmp_path)).text


def test_report_replaces_the_old_one_and_is_the_same_for_the_same_files(tmp_path):
    make_run(tmp_path)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "evaluation", "metrics.jsonl",
                                                               "report.html", "run.json"]


def test_curves_hold_the_values_as_points_and_marks():
    lines = {"land": ([0, 50, 100], [1.0, 3.0, 2.0]), "w$": ([0, 100], [1.0, 1.0])}
    svg = ElementTree.fromstring(plot("IoU", Panel(lines), [37]).decode())
    text = " ".join("".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text"))
    assert "IoU" in text and "land" in text and "w$" in text and "step" in text
    lines = [node.get("d") for group in svg.iter() if group.get("id", "").startswith("line2d")
             for node in group.iter("{http://www.w3.org/2000/svg}path") if group.get("id") and node.get("clip-path")]
    points = [[tuple(map(float, p)) for p in re.findall(r"([\d.]+) ([\d.]+)", d)] for d in lines]
    (x0, y0), (x1, y1), (x2, y2) = next(p for p in points if len(p) == 3)
    assert math.isclose(x1 - x0, x2 - x1, rel_tol=1e-3) and math.isclose(y0 - y1, 2 * (y0 - y2), rel_tol=1e-3)
    upright = [(p[0][0] - x0) / (x2 - x0) for p in points if len(p) == 2 and p[0][0] == p[1][0]]  # the grid, too
    assert any(math.isclose(x, 0.37, rel_tol=1e-3) for x in upright)


def test_long_labels_leave_a_panel():
    """A warning is an error here: a legend of two columns of them once left no room for the axes."""
    direction = "s1_s2_turned_to_s1_s2_of_largest/times_chance_"
    assert plot("groups", Panel({f"{direction}{size}": ([0, 100], [0.1, 0.2]) for size in range(10)}), [])


def test_quick_evaluations_are_curves_of_their_own(tmp_path):
    folder = make_run(tmp_path)
    save_curve_tables(epath.Path(folder), "knn", 20, [KNN])
    with open(folder / "metrics.jsonl", "a") as file:
        for step in (10, 20):
            file.write(json.dumps({"step": step, "kind": "quick_eval", "knn/s1/top1": 0.5, "knn/s2/top1": 0.6,
                                   "knn/s1/neighbours": 1200}) + "\n")
    page = read(write_report(folder))
    assert "Quick evaluation during training" in page.text and "Nearest neighbours" not in page.text
    assert {image["alt"] for image in page.images} == {"loss", "records per second", "recall@1", "accuracy"}
    (folder / "curves" / "knn.json").write_text('{"step": 20, "tables": [{}]}')
    page = read(write_report(folder))
    assert "knn.json" in page.text and "knn" in {image["alt"] for image in page.images}, "grouped by name"


def test_long_curves_are_block_means():
    steps, values = list(range(1200)), [float(t % 3) for t in range(1200)]
    assert thin(steps[:500], values[:500]) == (steps[:500], values[:500])
    thinned = thin(steps, values)
    assert len(thinned[0]) == 400 and thinned[0][:2] == [1, 4] and set(thinned[1]) == {1.0}


def test_folder_without_a_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="holds no run.json, config.json"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        write_report(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def command(*arguments):
    return commands.run("-m", "dual_encoder.report", *arguments)


def test_command(tmp_path):
    make_run(tmp_path)
    done = command(f"--workdir={tmp_path}")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'report.html'}\n" and not done.stderr
    svg = next(image["src"] for image in read(tmp_path / "report.html").images)
    assert base64.b64decode(svg.partition(",")[2]).startswith(b"<?xml")
    done = command(tmp_path / "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


def two_runs(folder):
    """Two runs that differ in one key and in their scores."""
    for name, crop, recall in (("a", 32, 0.4), ("<b>", 64, 0.125)):
        (folder / name).mkdir()
        add_knn(make_run(folder / name))
        (folder / name / "config.json").write_text(json.dumps({"batch_size": 10, "augment": {"crop": crop}}))
        scores = {"s1_to_s2": SCORES | {"recall@1": recall}, "s2_to_s1": SCORES}
        save_evaluation(epath.Path(folder / name), 30, Evaluation((retrieval_table(scores), KNN)))
    return [folder / "a", folder / "<b>"]


def test_runs_are_compared_on_one_page(tmp_path):
    runs = two_runs(tmp_path)
    done = command(*runs, f"--out={tmp_path / 'both.html'}")
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'both.html'}\n", done.stderr
    page = read(tmp_path / "both.html")
    header, first, second = page.rows[:3]
    assert header[-1] == "augment.crop" and "recall@1 S1 → S2, gallery of 8" in header and "data.threads" not in header
    assert first[:2] == ["a", "0.400"] and second[:2] == ["<b>", "0.125"] and (first[-1], second[-1]) == ("32", "64")
    assert ["<b>", "S1", "0.500", "12.35"] in page.rows, "scores of the other tables"
    svg = {image["alt"]: base64.b64decode(image["src"].partition(",")[2]).decode() for image in page.images}
    assert {"training: loss", "evaluation: recall@1 S1 → S2, gallery of 8"} <= set(svg)
    drawn = svg["evaluation: recall@1 S1 → S2, gallery of 8"]
    assert ">a<" in drawn and ">&lt;b&gt;<" in drawn and ">by chance<" in drawn
    text = (tmp_path / "both.html").read_text()
    script, policy = re.search("<script>(.*?)</script>", text, re.DOTALL)[1], dict(page.attributes)["content"]
    assert page.tags.count("script") == 1 and policy.endswith(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"), "no other script can run"


def test_a_comparison_names_a_folder_without_a_run(tmp_path):
    done = command(make_run(tmp_path), tmp_path / "nowhere", f"--out={tmp_path / 'x.html'}")
    assert done.returncode == 2 and "nowhere' is not a folder" in done.stderr and not (tmp_path / "x.html").exists()
    assert command().returncode == 2


WRONG = (None, [1], {"a": [1]}, "\ud800", 10**400, float("inf"))


def replaced(values):
    """Yields `values` with each of its values, at any depth, replaced by wrong ones in turn."""
    for key, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        for other in WRONG:
            values[key] = other
            yield key
        values[key] = value
        if isinstance(value, dict | list):
            yield from replaced(value)


@pytest.mark.slow
def test_values_of_a_wrong_type_never_stop_the_page(tmp_path, monkeypatch):
    """The page is written; curves are drawn elsewhere and would take minutes here."""
    monkeypatch.setattr(page_html, "plot", lambda title, lines, marks: b"")
    add_knn(make_run(tmp_path))
    for name in ("run.json", "config.json", "evaluation/scores.json", "evaluation/tables.json"):
        path = tmp_path / name
        whole = path.read_bytes()
        values = json.loads(whole)
        for key in replaced(values):
            path.write_text(json.dumps(values))
            assert write_report(tmp_path).read_bytes(), (name, key, values)
        for text in (b"[" * 100000, b"1" * 5000, b"\xff", b"null", b'"x"'):
            path.write_bytes(text)
            assert write_report(tmp_path).read_bytes()
        path.write_bytes(whole)


def test_values_of_a_wrong_type_are_named(tmp_path):
    make_run(tmp_path, parameters="12", dataset=[], devices={"count": 8, "platform": 3}, sensors={"s1": 4})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": "5", "kind": "train"}\n{"step": Infinity, "kind": "x"}\n{"step": 5, "kind": []}\n')
    (tmp_path / "evaluation" / "scores.json").write_text('{"step": 30, "iou": 5, "support": {"a": 1}}')
    text = read(write_report(tmp_path)).text
    for said in ("run.json: parameters is '12', expected a number", "run.json: dataset is [], expected an object",
                 "run.json: devices.platform is 3, expected text", "the data set of run.json could not be shown",
                 "metrics.jsonl: 3 damaged lines were left out (first: line 36)", "scores.json could not be read"):
        assert said in text, said


def test_files_that_differ_from_their_digest_are_named(tmp_path):
    add_knn(make_run(tmp_path))
    assert "digest" not in read(write_report(tmp_path)).text
    for name, old, new in (("tables.json", b"0.5", b"0.7"), ("knn_examples.png", b"IDAT", b"IDBT")):
        path = tmp_path / "evaluation" / name
        path.write_bytes(path.read_bytes().replace(old, new))
        assert f"evaluation/{name} does not match its digest in digests.json" in read(write_report(tmp_path)).text
    assert "data:image/png" not in write_report(tmp_path).read_text()
    (tmp_path / "digests.json").write_text("[]")
    assert "digest" not in read(write_report(tmp_path)).text
