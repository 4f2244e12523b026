"""What people decided, laid over a table: which labels products then have, and which files are refused."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.corrections import read_corrections, said_of_corrections
from dataset.labels import LabelRules, TaskColumn, make_tasks
from dataset.rows import Columns, Reading, UnreadProduct, unread_products
from dataset.survey import survey
from dataset.table import CsvSource, ParquetSource

COLOR, TAGS = TaskColumn("color", "single_label"), TaskColumn("tags", "multi_label")
READING = Reading(Columns(None, "title", "sku"), Path(), [COLOR, TAGS])
LABELS = {"color": ["blue", "pink", "red"], "tags": ["a", "b", "c"]}
# id, color, color_decided, tags, tags_decided
DECIDED = [
    ("1", "pink", True, ["a", "c"], True),
    ("2", None, True, [], True),
    ("3", "blue", False, ["c"], None),
    ("4", "blue", None, None, True),
    ("gone", "red", True, None, False),
]
DECISIONS = {
    "1": {"color": ["pink"], "tags": ["a", "c"]},
    "2": {"color": None, "tags": []},
    "4": {"tags": None},
    "gone": {"color": ["red"]},
}
TABLE = "sku,title,color,tags\n1,One,red,b\n2,Two,red,a|b\n3,Three,red,a\n 4 ,Four,red,a\n"


def table(folder: Path, text: str = TABLE) -> CsvSource:
    (folder / "shop.csv").write_text(text)
    return CsvSource(folder / "shop.csv")


def parquet(folder: Path, rows: list = DECIDED, ids: pa.DataType | None = None) -> Path:
    id, color, color_decided, tags, tags_decided = (list(column) for column in zip(*rows, strict=True))
    columns = {"id": pa.array(id, ids), "color": pa.array(color, pa.string()), "title": ["anything"] * len(rows)}
    columns |= {"color_decided": pa.array(color_decided, pa.bool_()), "tags": pa.array(tags, pa.list_(pa.string()))}
    pq.write_table(pa.table(columns | {"tags_decided": pa.array(tags_decided, pa.bool_())}), folder / "d.parquet")
    return folder / "d.parquet"


def text(folder: Path, content: str) -> Path:
    (folder / "d.csv").write_text(content)
    return folder / "d.csv"


def labels_in(source: CsvSource | ParquetSource, reading: Reading) -> dict[str, object]:
    """Id -> labels, or why the row is rejected."""
    tasks = make_tasks(reading.tasks, LABELS, reading.rules)
    found = unread_products(source, reading, tasks)
    return {
        **{row.product.id: tuple(row.product.labels.values()) for row in found if isinstance(row, UnreadProduct)},
        **{row.id: row.detail for row in unread_products(source, reading, tasks) if not isinstance(row, UnreadProduct)},
    }


def test_what_is_decided_replaces_the_table_and_the_rest_stays(tmp_path):
    decisions = read_corrections(parquet(tmp_path), READING)
    assert decisions == DECISIONS
    reading = replace(READING, decisions=decisions)
    assert labels_in(table(tmp_path), reading) == {
        "1": ("pink", ["a", "c"]),
        "2": (None, []),
        "3": ("red", ["a"]),
        "4": ("red", None),
    }
    assert labels_in(table(tmp_path), READING)["2"] == ("red", ["a", "b"])


def test_a_csv_says_the_same(tmp_path):
    content = (
        "reviewer,id,color,color_decided,tags,tags_decided\n"
        "x,1,pink,True,a|c,TRUE\n"
        "x, 2 ,,true,[],true\n"
        "x,3,blue,False,c,\n"
        'x,4,blue,,"",true\n'
        "y,gone,red, true ,,false\n"
    )
    assert read_corrections(text(tmp_path, content), READING) == DECISIONS
    (tmp_path / "d.csv").rename(tmp_path / "d.CSV")
    assert read_corrections(tmp_path / "d.CSV", READING) == DECISIONS


@pytest.mark.parametrize("cell", ["a|c", "['a', 'c']", '["a", "c"]', "['a', 'c', 'a']"])
def test_several_labels_as_text(tmp_path, cell):
    with (tmp_path / "d.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "tags", "tags_decided"], ["1", cell, "true"]])
    commas = replace(READING, tasks=[COLOR, TaskColumn("tags", "multi_label", separator=",")])
    for reading in (READING, commas):  # the table's own separator is not that of the corrections
        assert read_corrections(tmp_path / "d.csv", reading) == {"1": {"tags": ["a", "c"]}}


def test_a_label_with_a_bar_is_one_in_a_list(tmp_path):
    reading = replace(
        READING, decisions=read_corrections(parquet(tmp_path, [("1", None, None, ["a|b"], True)]), READING)
    )
    found = survey(table(tmp_path), reading)
    assert found.labels["tags"] == {"a|b": 1, "a": 3, "b": 1}


def test_the_survey_counts_what_was_decided(tmp_path):
    reading = replace(READING, decisions=read_corrections(parquet(tmp_path), READING))
    found = survey(table(tmp_path), reading)
    assert found.labels == {"color": Counter(pink=1, red=2), "tags": Counter(a=2, c=1)}  # b stood in those rows only
    assert found.decided == {"1", "2", "4"}
    assert said_of_corrections(reading.decisions, found.decided) == (
        "corrections: 5 labels of 3 products; 1 ids are not in the table: 'gone'"
    )
    assert said_of_corrections(reading.decisions, set(DECISIONS)) == "corrections: 6 labels of 4 products"


def test_a_row_that_cannot_be_read_is_in_the_table_all_the_same(tmp_path):
    reading = replace(READING, decisions=read_corrections(parquet(tmp_path), READING))
    assert survey(table(tmp_path, TABLE + "gone,Five\n"), reading).decided == {"1", "2", "4", "gone"}


def test_ids_match_as_products_are_called(tmp_path):
    """As a number, a float beside a hole or text with blanks, in either file."""
    columns = {"sku": [1.0, None, 3.0], "title": ["One", "Two", "Three"], "color": ["red"] * 3, "tags": [["a"]] * 3}
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    for ids, kind in ((["1", " 3 "], pa.string()), ([1, 3], pa.int64()), ([1.0, 3.0], pa.float64())):
        rows = [(id, "pink", True, None, False) for id in ids]
        reading = replace(READING, decisions=read_corrections(parquet(tmp_path, rows, kind), READING))
        found = labels_in(ParquetSource(tmp_path / "shop.parquet"), reading)
        assert found == {"1": ("pink", ["a"]), "3": ("pink", ["a"]), "": "the row has no id"}
        assert survey(ParquetSource(tmp_path / "shop.parquet"), reading).decided == {"1", "3"}


def test_without_an_id_column_the_row_number_is_the_id(tmp_path):
    reading = replace(READING, columns=Columns(None, "title"))
    path = text(tmp_path, "id,color,color_decided\n2,pink,true\n5,pink,true\n")
    reading = replace(reading, decisions=read_corrections(path, reading))
    source = table(tmp_path, "title,color,tags\nOne,red,a\nTwo,red,a\nThree,blue,a\n")
    assert labels_in(source, reading) == {"1": ("red", ["a"]), "2": ("pink", ["a"]), "3": ("blue", ["a"])}
    assert survey(source, reading).decided == {"2"}


def test_the_name_is_the_tasks_and_other_uses_of_the_column_stay(tmp_path):
    """The column is also that by which products are grouped, and that of another task."""
    tasks = [TaskColumn("shade", "single_label", source="color"), replace(COLOR, source="color")]
    reading = replace(READING, columns=Columns(None, "title", "sku", group="color"), tasks=tasks)
    path = text(tmp_path, "id,shade,shade_decided\n1,pink,true\n")
    reading = replace(reading, decisions=read_corrections(path, reading))
    known = make_tasks(tasks, {"shade": ["pink", "red"], "color": ["blue", "red"]}, LabelRules())
    first, *_ = unread_products(table(tmp_path), reading, known)
    assert isinstance(first, UnreadProduct) and first.product.labels == {"shade": "pink", "color": "red"}
    assert first.group == "red"


def test_a_label_that_is_not_known_costs_its_row(tmp_path):
    rows = [("1", "mauve", True, None, False), ("2", "mauve", False, None, False)]
    reading = replace(READING, decisions=read_corrections(parquet(tmp_path, rows), READING))
    found = labels_in(table(tmp_path), reading)
    assert found["1"] == "color: label 'mauve' is not among the 3 known ones" and found["2"] == ("red", ["a", "b"])


def test_the_rules_of_labels_hold_for_decisions_too(tmp_path):
    rows = [("1", "PINK", True, None, False), ("2", "n/a", True, ["n/a", "A"], True)]
    rules = LabelRules(frozenset({"n/a"}), merge_case=True)
    reading = replace(READING, rules=rules)
    reading = replace(reading, decisions=read_corrections(parquet(tmp_path, rows), reading))
    found = labels_in(table(tmp_path), reading)
    assert found["1"] == ("pink", ["b"]) and found["2"] == (None, ["a"])


def test_two_rows_of_an_id_may_agree_or_add_to_each_other(tmp_path):
    rows = [("1", "pink", True, ["a", "c"], True), ("1", "red", False, ["c", "a"], True), ("2", None, True, None, None)]
    rows += [("2", "", True, ["b"], True), (None, "red", False, None, False)]  # one that decides nothing needs no id
    expected = {"1": {"color": ["pink"], "tags": ["a", "c"]}, "2": {"color": None, "tags": ["b"]}}
    assert read_corrections(parquet(tmp_path, rows), READING) == expected


def test_a_file_that_decides_nothing_changes_nothing(tmp_path):
    reading = replace(READING, decisions=read_corrections(parquet(tmp_path, [("1", "pink", False, [], None)]), READING))
    assert reading.decisions == {} and labels_in(table(tmp_path), reading) == labels_in(table(tmp_path), READING)
    assert said_of_corrections({}, set()) == "corrections: 0 labels of 0 products"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("sku,color,color_decided\n", "no column 'id'; it has 'sku', 'color', 'color_decided'"),
        (
            "id,color\n1,red\n",
            "column 'color' stands alone; expected another one, 'color_decided', true where the label counts",
        ),
        ("id,color_decided\n1,true\n", "no column 'color'; it has 'id', 'color_decided'"),
        (
            "id,size,size_decided\n1,M,true\n",
            "no column of a task; expected TASK and TASK_decided, TASK of color, tags; it has 'id', 'size', ",
        ),
        ("id,color,color_decided,color\n", "columns 2 and 4 are both named 'color'"),
        ("id,color,color_decided\n1,red,true\n2,red,1\n", "row 2: color_decided is '1', expected true or false"),
        ("id,color,color_decided\n1,red,yes\n", "row 1: color_decided is 'yes', expected true or false"),
        (
            "id,color,color_decided\n1,red,true\n2,red,true\n 1,,true\n",
            r"row 3: id '1' has two decisions on color: \['red'\] and nobody can tell; keep one of its rows",
        ),
        (
            "id,tags,tags_decided\n1,a|b,true\n1,a,true\n",
            r"row 2: id '1' has two decisions on tags: \['a', 'b'\] and \['a'\]",
        ),
        (
            "id,tags,tags_decided\n1,[],true\n1,,true\n",
            r"row 2: id '1' has two decisions on tags: \[\] and nobody can tell",
        ),
        ("id,color,color_decided\n,red,true\n", "row 1: the row has no id"),
        ("id,color,color_decided\n1,red\n", "row 1: ROW_UNUSABLE: line 2: 2 cells, the header has 3; mend or remove"),
    ],
)
def test_a_file_that_is_of_no_use_is_refused(tmp_path, content, expected):
    with pytest.raises(ValueError, match=f"d.csv: {expected}"):
        read_corrections(text(tmp_path, content), READING)


def test_a_cell_that_holds_no_label_is_refused(tmp_path):
    columns = {"id": ["1"], "color": [["red", "blue"]], "color_decided": [True]}
    pq.write_table(pa.table(columns), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="d.parquet: row 1: color: 2 labels for a single-label task"):
        read_corrections(tmp_path / "d.parquet", READING)
    pq.write_table(pa.table(columns | {"color": ["red"], "color_decided": [1]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match="d.parquet: row 1: color_decided is 1, expected true or false"):
        read_corrections(tmp_path / "d.parquet", READING)


@pytest.mark.parametrize("name", ["gone.csv", "gone.parquet"])
def test_a_file_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        read_corrections(tmp_path / name, READING)
