"""Tables as people save them: separators, marks, quotes, blank and ragged rows; cells never slide aside."""

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from data_prep import tables
from data_prep.tables import Fault, Row
from dual_encoder.errors import UserError

pytestmark = pytest.mark.quick

KNOWN = ("s1", "s2", "id", "location_id", "lat")


def read(tmp_path, content, needed=("s1",)):
    path = tmp_path / "pairs.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(tables.read(path, KNOWN, needed))


@pytest.mark.parametrize("separator", (",", ";", "\t", "|"))
@pytest.mark.parametrize("end", ("\n", "\r\n", "\r"))
@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16"))
def test_every_separator_line_end_and_encoding(tmp_path, separator, end, encoding):
    rows = [["S1", " s2 ", "Location ID"], ["ä.tif", '"b; c, d.tif"', ""], ["", "", ""], [], ["e.tif", "f.tif", "g"]]
    text = end.join(separator.join(row) for row in rows) + end
    found = read(tmp_path, text.encode(encoding))
    assert found == [Row("line 2", {"s1": "ä.tif", "s2": "b; c, d.tif", "location_id": ""}),
                     Row("line 5", {"s1": "e.tif", "s2": "f.tif", "location_id": "g"})]


def test_the_separator_may_be_said_and_blank_lines_stand_before_the_header(tmp_path):
    assert read(tmp_path, "sep=;\r\ns1;id\r\na.tif;1,5\r\n") == [Row("line 3", {"s1": "a.tif", "id": "1,5"})]
    assert read(tmp_path, "\n,,\ns1,id\na.tif,b\n") == [Row("line 4", {"s1": "a.tif", "id": "b"})]


def test_a_row_with_another_number_of_cells_is_a_fault(tmp_path):
    found = read(tmp_path, "s1,s2,id,lat\na,b,c,1\na,b c,1\na,b,c,1,\na,b,d,2\n")
    assert [type(row) for row in found] == [Row, Fault, Fault, Row]
    assert found[1] == Fault("line 3", "line 3 of 'pairs.csv' has 3 cells, the header has 4; write one for each column")
    assert found[2].reason.startswith("line 4 of 'pairs.csv' has 5 cells") and found[3].cells["lat"] == "2"


def test_rows_that_a_quote_holds_together_are_a_fault(tmp_path):
    """Else the rows between two stray quotes would be lost in one cell."""
    found = read(tmp_path, 's1,id\na,"x\nb,y"\nc,z\n')
    assert [row.where for row in found] == ["line 2", "line 4"] and "lines 2 to 3 of 'pairs.csv'" in found[0].reason


def test_columns_twice_unknown_or_missing_are_named(tmp_path, capsys):
    for header in ("s1,s2,s1", "s1,s2,S1 "):
        with pytest.raises(UserError, match="has the column 's1' 2 times; keep one"):
            read(tmp_path, f"{header}\na,b,c\n")
    with pytest.raises(UserError, match=r"has no column s1 \(it has s 1 id\); add it"):
        read(tmp_path, "s 1,id\na,b\n")
    assert read(tmp_path, "s1,latt,,\na,1,,\n") == [Row("line 2", {"s1": "a"})]
    assert "pairs.csv': not used: column 'latt'; did you mean 'lat'?" in capsys.readouterr().out


@pytest.mark.parametrize("content, message", [
    ("s1,id\nKöln,a\n".encode("latin-1"), "cannot be read as a table .*save it as CSV in UTF-8"),
    (b's1,id\na,"b"c\n', "line 2: ',' expected after"), (b's1,id\na,"b\n', "line 2: unexpected end of data"),
    (b"s1,id\na," + b"x" * 200_000, "line 2: field larger"), (bytes(range(32)) * 9, "has no column s1")])
def test_what_is_no_table_is_told(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, content)


def test_parquet_has_types_and_numbers_of_rows(tmp_path):
    path = tmp_path / "pairs.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"S1": ["a", None], "mine": [1, 2], "lat": [1.5, None]}), path)
    assert list(tables.read(path, KNOWN, ["s1"])) == [Row("row 1", {"s1": "a", "lat": 1.5}),
                                                      Row("row 2", {"s1": None, "lat": None})]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        list(tables.read(path, KNOWN, ["s1"]))


def test_cells_as_numbers_and_texts():
    assert [tables.number(cell, "lat") for cell in ("1.5", -2, "+3e1", " 4. ")] == [1.5, -2, 30, 4]
    assert all(np.isnan(tables.number(cell, "lat")) for cell in (None, "", "NaN", "null", float("nan")))
    for cell, reason in (("47,5", "a decimal comma"), ("47 N", "no number"), ("1_0", "no number"), ("inf", "no number"),
                         ("٤", "no number")):
        with pytest.raises(ValueError, match=f"lat is '{cell}', {reason}; write it like 12.5"):
            tables.number(cell, "lat")
    assert tables.text("Co\u0301rdoba") == "C\u00f3rdoba" and tables.text(None) == tables.text(float("nan")) == ""
