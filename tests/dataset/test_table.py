"""Tables as other programs leave them: types of ids, names of columns, files that are no data."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset import rows
from dataset.cells import text_of
from dataset.parts import Part
from dataset.products import Product, Reject, RejectFile
from dataset.rows import Columns, ImageReader, Reading, UnreadProduct, unread_products
from dataset.table import CsvSource, ParquetSource, Source

COLUMNS = Columns(image=None, title="title", id="id")


def told(source: Source, **reading: object) -> list[tuple[str, str]]:
    """Id and title of each product, id and code of each reject."""
    found = unread_products(source, Reading(COLUMNS, Path(), **reading), [])
    return [
        (row.product.id, row.product.title) if isinstance(row, UnreadProduct) else (row.id, row.code) for row in found
    ]


def parquet(path: Path, ids: object, titles: object) -> ParquetSource:
    pq.write_table(pa.table({"id": ids, "title": titles}), path)
    return ParquetSource(path)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([b"1001", b"1002"]), ["1001", "1002"]),
        (pa.array([b"1001", b"\xff"], pa.large_binary()), ["1001", "b'\\xff'"]),
        (pa.array([1001.0, 1002.5]), ["1001", "1002.5"]),
        (pa.array([1001, 2**60]), ["1001", str(2**60)]),
        (pa.array(["001", " 2 "], pa.large_string()), ["001", "2"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([Decimal("1001.00"), Decimal("0.50")], pa.decimal128(38, 2)), ["1001", "0.5"]),
        (pa.array([datetime.date(2026, 1, 2), datetime.date(2026, 1, 3)]), ["2026-01-02", "2026-01-03"]),
        (pa.array([1, 2], pa.timestamp("ns")), None),
        (pa.array([0, 10**14], pa.timestamp("s")), ["1970-01-01 00:00:00", ""]),
    ],
)
def test_ids_of_any_type_are_what_people_call_them(tmp_path, ids, expected):
    found = told(parquet(tmp_path / "a.parquet", ids, ["x", "y"]))
    assert len(found) == 2 and (expected is None or [id for id, _ in found] == expected)


def test_ids_that_became_floats_beside_a_hole(tmp_path):
    """As pandas writes integers of which one is missing."""
    source = parquet(tmp_path / "a.parquet", pa.array([1001.0, float("nan"), None, 1002.0, 1001.0]), list("abcde"))
    assert told(source) == [("1001", "a"), ("", "NO_ID"), ("", "NO_ID"), ("1002", "d"), ("1001", "DUPLICATE_ID")]


@pytest.mark.parametrize(
    ("titles", "expected"),
    [
        (pa.array([b"Red dress", b"caf\xe9"]), ["Red dress", "TXT_INVALID_UTF8"]),
        (pa.array([7, 8]), ["7", "8"]),
        (pa.array([7.0, float("nan")]), ["7", "NO_MODALITY"]),
        (pa.array(["Red", "Blue"]).dictionary_encode(), ["Red", "Blue"]),
        (pa.array([["Red"], ["Blue"]]), ["ROW_UNUSABLE", "ROW_UNUSABLE"]),
    ],
)
def test_titles_of_any_type(tmp_path, titles, expected):
    assert [title for _, title in told(parquet(tmp_path / "a.parquet", ["1", "2"], titles))] == expected


def test_a_row_that_python_cannot_hold_is_a_reject_with_its_id(tmp_path):
    year_30000 = pa.array([0, 10**12], pa.timestamp("s"))
    assert told(parquet(tmp_path / "a.parquet", ["1", "2"], year_30000)) == [
        ("1", "1970-01-01 00:00:00"),
        ("2", "ROW_UNUSABLE"),
    ]
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    assert told(parquet(tmp_path / "b.parquet", ["1", "2"], broken)) == [("1", "a"), ("2", "TXT_INVALID_UTF8")]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", " nan ", "NULL", "<NA>"])
def test_a_literal_nan_is_no_title_unless_it_is_kept(tmp_path, word):
    (tmp_path / "a.csv").write_text(f"id,title\n1,{word}\n2,nan dress\n{word},Red\n")
    source = CsvSource(tmp_path / "a.csv")
    assert told(source) == [("1", "NO_MODALITY"), ("2", "nan dress"), ("", "NO_ID")]
    assert told(source, keep_literal_nan=True) == [("1", word), ("2", "nan dress"), (word.strip(), "Red")]
    for title in (word, word.encode()):
        assert told(parquet(tmp_path / "a.parquet", ["1"], [title])) == [("1", "NO_MODALITY")]


def test_two_columns_of_one_name_are_refused_with_both_positions(tmp_path):
    (tmp_path / "a.csv").write_text("id,title,x,title,x\n1,Red,,Blue,\n")
    table = pa.Table.from_arrays([pa.array(["1"])] * 3, names=["title", "id", "title"])
    pq.write_table(table, tmp_path / "a.parquet")
    problem = "columns 2 and 4 are both named 'title'; rename one"
    for source, places in (
        (CsvSource(tmp_path / "a.csv"), "2 and 4"),
        (ParquetSource(tmp_path / "a.parquet"), "1 and 3"),
    ):
        with pytest.raises(ValueError, match=problem.replace("2 and 4", places)):
            Reading(COLUMNS, Path()).check_columns(source)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for number, name in enumerate(
        [
            "part-0",
            "sub/part-1",
            "_key=a/part-2",
            "_temporary/0/part-3",
            ".ipynb_checkpoints/part-0",
            "._part-0",
            "_part-4",
        ]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        parquet(tmp_path / f"{name}.parquet", [str(number)], ["x"])
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "_SUCCESS").touch()
    source = ParquetSource(tmp_path)
    assert sorted(id for id, _ in told(source)) == ["0", "1", "2"] and source.count() == 3
    with pytest.raises(ValueError, match=r"_temporary: no such file, or a directory without \*.parquet files"):
        ParquetSource(tmp_path / "none/_temporary")


def test_part_files_of_another_schema_are_refused_before_the_first_row(tmp_path):
    parquet(tmp_path / "0.parquet", [1], ["x"])
    parquet(tmp_path / "1.parquet", [2.0], ["y"])
    Reading(COLUMNS, Path()).check_columns(ParquetSource(tmp_path))
    assert told(ParquetSource(tmp_path)) == [("1", "x"), ("2", "y")]
    pq.write_table(pa.table({"id": [3], "name": ["z"]}), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2.parquet: no column 'title'; it has 'id', 'name'"):
        Reading(COLUMNS, Path()).check_columns(ParquetSource(tmp_path))


@pytest.mark.parametrize(
    ("content", "found"), [("", "none"), ("\n", "none"), ("id;title\n", "'id;title'; are its cells parted by commas")]
)
def test_a_table_without_its_columns_is_one_line(tmp_path, content, found):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=f"a.csv: no column 'id', 'title'; it has {found}"):
        Reading(COLUMNS, Path()).check_columns(CsvSource(tmp_path / "a.csv"))


def test_a_header_alone_has_no_rows(tmp_path):
    (tmp_path / "a.csv").write_text("id,title\n")
    assert told(CsvSource(tmp_path / "a.csv")) == [] and CsvSource(tmp_path / "a.csv").count() == 0


def test_an_error_that_nobody_foresaw_costs_its_own_row(tmp_path, monkeypatch, caplog):
    def clean_title(title: str, most: int) -> str:
        if title == "Blue":
            raise KeyError("of a decoder")
        return title

    monkeypatch.setattr(rows, "clean_title", clean_title)
    (tmp_path / "a.csv").write_text("id,title\n1,Red\n2,Blue\n3,Green\n")
    first, incident, last = unread_products(CsvSource(tmp_path / "a.csv"), Reading(COLUMNS, Path()), [])
    assert (first.product.title, last.product.title) == ("Red", "Green")
    assert (incident.row, incident.id, incident.code) == (2, "2", "INTERNAL")
    name = incident.detail.removeprefix("incident ").split(",")[0]
    assert "KeyError: 'of a decoder'" in incident.detail
    assert f"incident {name}, row 2" in caplog.text and "Traceback" in caplog.text


def test_an_image_over_which_decoding_breaks_costs_its_own_row(monkeypatch, caplog):
    def decode_pixels(image: bytes, *_: object) -> None:
        if image == b"441":
            raise KeyError("441")

    monkeypatch.setattr(rows, "decode_pixels", decode_pixels)
    items = [UnreadProduct(n, Product(f"{n}", b"", "x", {}, "train"), image) for n, image in enumerate([b"1", b"441"])]
    good, incident = ImageReader().products(Part(0, items))
    assert good.image == b"1" and (incident.row, incident.id, incident.code) == (1, "1", "INTERNAL")
    assert "KeyError" in incident.detail and "Traceback" in caplog.text
    monkeypatch.setattr(rows, "decode_pixels", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        list(ImageReader().products(Part(0, items)))


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_rejects_hold_no_formula(tmp_path, cell):
    rejects = RejectFile(tmp_path / "rejects.csv")
    rejects.add(Reject(1, cell, "NO_ID", cell))
    rejects.close()
    (row,) = CsvSource(tmp_path / "rejects.csv").rows(["id", "message"])
    assert row.cells == {"id": f"'{cell}", "message": f"'{cell}"}


def test_text_of_numbers():
    cells = (1e300, float("inf"), True, -2.0, 1002.5)
    assert [text_of(cell, "x") for cell in cells] == [str(int(1e300)), "inf", "True", "-2", "1002.5"]
