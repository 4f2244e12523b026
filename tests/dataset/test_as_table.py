"""A data set as a table and back again: the same products."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from data_set_files import all_rows, error_of, picture
from study_files import ROWS, write_products

from dataset.as_table import cell_of, main
from model.tasks import MultiLabel, SingleLabel
from train.prepare.__main__ import main as prepare


def test_a_table_prepares_to_the_same_products(tmp_path: Path):
    whole = [row for row in ROWS if row[1] != picture(6)[:200]]  # a cut image is one that preparing rejects
    data = write_products(tmp_path / "data", whole)
    assert main([str(data), "--output", str(tmp_path / "table")]) == 0
    columns = ["--image-column", "image", "--title-column", "title", "--id-column", "id"]
    tasks = ["--task", "color:single_label", "--task", "tags:multi_label"]
    words = ["--csv", str(tmp_path / "table/products.csv"), *columns, *tasks, "--test", "0", "--validation", "0"]
    assert prepare(["catalog", *words, "--workers", "1", "--output", str(tmp_path / "again")]) == 0
    assert all_rows(tmp_path / "again") == all_rows(data)


def test_a_draw_is_of_so_many_and_the_same_again(tmp_path: Path):
    data = write_products(tmp_path / "data")
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert main([str(data), "--output", str(tmp_path / name), "--products", "5", "--seed", seed]) == 0
    drawn = {name: (tmp_path / name / "products.csv").read_text() for name in "abc"}
    assert drawn["a"] == drawn["b"] != drawn["c"]
    with (tmp_path / "a/products.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    files = {f"images/{path.name}" for path in (tmp_path / "a/images").iterdir()}
    assert len(rows) == 5 and {row["image"] for row in rows if row["image"]} == files


@pytest.mark.parametrize(("stored", "expected"), [
    (None, ""), ([], "[]"), (["a"], "a"), (["a", "b"], "a|b"), (["a|b", "caf\u00e9"], '["a|b", "caf\u00e9"]'),
])  # fmt: skip
def test_cells_of_several_labels(stored, expected):
    assert cell_of(MultiLabel(name="tags", labels=["a"]), stored) == expected


def test_a_bar_in_a_single_label_is_no_separator():
    assert cell_of(SingleLabel(name="size", labels=["a|b", "c"]), "a|b") == "a|b"


@pytest.mark.parametrize(("more", "expected"), [
    (["--products", "0"], "--products 0: "),
    (["--products", "19"], "has 18"),
])  # fmt: skip
def test_wrong_numbers_are_one_line_and_nothing_is_written(tmp_path: Path, capsys, more, expected):
    data = write_products(tmp_path / "data")
    assert main([str(data), "--output", str(tmp_path / "out"), *more]) == 2
    assert expected in error_of(capsys) and not (tmp_path / "out").exists()


def test_what_is_there_is_not_replaced(tmp_path: Path, capsys):
    data = write_products(tmp_path / "data")
    (tmp_path / "out").mkdir()
    assert main([str(data), "--output", str(tmp_path / "out")]) == 2
    assert "is there; name a new directory" in error_of(capsys)
