"""Tables of results: what they check, how they become scores, and what another evaluation of pre-training costs."""

import json

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dual_encoder.evaluation.table import COLUMN, ROW, Column, Evaluation, Headline, Picture, Row, Table, join, scores
from dual_encoder.imagery.sensors import SENSORS
from dual_encoder.report.page import write_report
from dual_encoder.tasks import pretrain
from dual_encoder.workdir.scores import save_evaluation
from tests import runs

pytestmark = pytest.mark.quick

COLUMNS = (Column("top1", "accuracy", "share", "higher"), Column("size", "records", "count"),
           Column("part", "part", "percent", in_scores=False))
ROWS = (Row("s1", "S1", (0.5, 3, 0.1)), Row("s2", "S2", (None, 4, 0.2)))
PICTURE = Image.fromarray(np.zeros((2, 2, 3), np.uint8))


def table(name="knn", **facts):
    facts = {"title": "Neighbours", "row_title": "sensor", "columns": COLUMNS, "rows": ROWS} | facts
    return Table(name=name, **facts)


def test_keys_say_where_a_number_stands_in_the_scores():
    by_row = {"s1": {"top1": 0.5, "size": 3}, "s2": {"top1": None, "size": 4}}
    assert scores([table()]) == {"knn": by_row}
    assert scores([table(keys=(ROW, COLUMN))]) == by_row
    assert scores([table(keys=("all", COLUMN, ROW))]) == {"all": {"top1": {"s1": 0.5, "s2": None},
                                                                  "size": {"s1": 3, "s2": 4}}}
    assert scores([table(keys=(COLUMN,), rows=ROWS[:1])]) == {"top1": 0.5, "size": 3}
    assert scores([table(), table("probe", keys=("knn", "probe", ROW, COLUMN))]) == {"knn": by_row | {"probe": by_row}}


def test_json_gives_the_same_table():
    full = table(keys=(COLUMN, ROW), references=(Row("chance", "by chance", (0.1, None, None)),), note="A note.",
                 headlines=(Headline("s1", "top1", "accuracy"),), class_colours=True,
                 pictures=(Picture("examples", "Examples", "A caption."),))
    assert Table.from_json(json.loads(json.dumps(full.to_json()))) == full


@pytest.mark.parametrize(("values", "message"), [
    ({"name": "x"}, "not a table of results: 'rows'"), ("text", "not a table"),
    (table().to_json() | {"columns": [{"name": "x"}]}, "not a table of results: .*missing"),
    (table().to_json() | {"surprise": 1}, "not a table of results: .*surprise"),
    (table().to_json() | {"columns": [{"name": "x", "title": "x", "unit": "inch"}] * 3},
     r"column 'x' has unit 'inch'; expected one of \['share', "),
])
def test_json_that_is_no_table_is_an_error_of_one_kind(values, message):
    with pytest.raises(ValueError, match=message):
        Table.from_json(values)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Column("x", "x", "share", "up"), "column 'x' has better='up'; expected 'higher', 'lower' or None"),
    (lambda: Row("x", "x", (np.float32(1),)), r"row 'x' holds a float32; expected int, float or None \(float"),
    (lambda: table(rows=(Row("x", "x", (1,)),)), "table 'knn': row 'x' has 1 values; expected 3, one per column"),
    (lambda: table(references=(Row("x", "x", ()),)), "row 'x' has 0 values"),
    (lambda: table(headlines=(Headline("s1", "top5", ""),)), "'knn' has no cell in row 's1' and column 'top5'"),
    (lambda: table(keys=(COLUMN,)), "table 'knn': two cells have the keys 'top1' in the scores"),
    (lambda: scores([table(), table("probe", keys=("knn", ROW, COLUMN))]), "table 'probe': 'knn/s1/top1' is in the sc"),
    (lambda: scores([table(), table("probe", keys=("knn", "s1", "top1", ROW, COLUMN))]), "is below a number"),
    (lambda: join([Evaluation((table(),)), Evaluation((table(),))]), "two tables have the name 'knn'"),
    (lambda: join([Evaluation((), {"a": PICTURE}), Evaluation((), {"a": PICTURE})]), "two pictures have the name 'a'"),
    (lambda: join([Evaluation((table(),)), Evaluation((table("b", keys=("knn", ROW, COLUMN)),))]), "in the scores of"),
])
def test_tables_that_contradict_themselves_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_another_evaluation_of_pre_training_is_one_function_in_the_list(tmp_path, monkeypatch):
    def evaluate_spread(split):
        rows = tuple(Row(view, view.upper(), (float(vectors.std()), len(split.places)))
                     for view, vectors in split.vectors.items())
        columns = (Column("std", "deviation", "number", "higher"), Column("size", "records", "count"))
        return Evaluation((Table("spread", "Spread", "sensor", columns, rows),), {"spread": PICTURE})

    monkeypatch.setattr(pretrain, "EVALUATIONS", {**pretrain.EVALUATIONS, "spread": evaluate_spread})
    config = runs.configure("unread")
    task = pretrain.Pretrain(config, {"s1": SENSORS["s1_grd"], "s2": SENSORS["s2_l2a"]})
    evaluation = task.evaluate(*outputs_and_records(("s1", "s2")))
    save_evaluation(epath.Path(tmp_path), 7, evaluation)
    written = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert list(written) == ["step", "s1_to_s2", "s2_to_s1", "space", "spread"] and written["spread"]["s1"]["size"] == 6
    assert written["s1_to_s2"]["recall@1"] == 1 and written["s1_to_s2"]["gallery_size"] == 3
    page = write_report(tmp_path).read_text()
    assert "<h2>Spread</h2>" in page and "<td>S2</td>" in page and 'alt="spread"' in page


def test_with_one_sensor_the_partner_is_the_turned_image():
    config = runs.configure("unread", inputs="s1")
    task = pretrain.Pretrain(config, {"s1": SENSORS["s1_grd"]})
    evaluation = task.evaluate(*outputs_and_records(("s1", "s1_turned")))
    assert list(evaluation.scores()) == ["s1_to_s1_turned", "s1_turned_to_s1", "space"]
    assert list(evaluation.images) == ["retrieval_s1_to_s1_turned", "retrieval_s1_turned_to_s1"]


def outputs_and_records(views):
    """Two batches of equal embeddings in both views; record n is at place n % 3, with an image of value n."""
    vectors = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    batches = [(np.arange(first, first + 3),
                {view: vectors[first:first + 3] for view in views} | {"location": np.arange(3, dtype=np.int32)})
               for first in (0, 3)]

    class Records:
        def record(self, number):
            return {name: np.full((8, 8, len(SENSORS[spec].bands)), number, SENSORS[spec].dtype)
                    for name, spec in (("s1", "s1_grd"), ("s2", "s2_l2a"))}

    return iter(batches), Records()
