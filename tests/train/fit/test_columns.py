"""Which column of a table is taken for what, and the one line where none can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shop import shop_rows, write_shop

from dataset.labels import TaskColumn
from dataset.table import CsvSource, ParquetSource
from train.fit.columns import Given, Layout, look

Row = dict[str, str]
COLOUR, TAGS = (
    TaskColumn("Main_Colour", "single_label", "|", "Main Colour"),
    TaskColumn("tags", "multi_label", "|", "tags"),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    folder = tmp_path_factory.mktemp("shop")
    return folder, shop_rows(folder, 60)


def looked(shop: tuple[Path, list[Row]], change: Callable[[int, Row], Row] | None = None, **given: object) -> Layout:
    folder, rows = shop
    changed = [change(n, dict(row)) if change else row for n, row in enumerate(rows)]
    return look(CsvSource(write_shop(folder / "shop.csv", changed)), folder, Given(**given))  # type: ignore[arg-type]


def test_columns_are_found_by_their_cells(rows):
    layout = looked(rows)
    assert (layout.image, layout.title, layout.id, layout.split) == ("photo", "name", "sku", None)
    assert layout.tasks == [COLOUR, TAGS]
    assert list(layout.lines) == ["sku", "photo", "name", "Main Colour", "tags", "price", "added"]
    assert layout.lines["price"] == "not used: numbers" and layout.lines["added"] == "not used: dates"
    assert layout.lines["tags"] == "labels of the task tags (multi_label, parted by |)"


def test_names_do_not_matter_where_cells_tell(rows):
    layout = looked(rows, lambda _, row: dict(zip("abcdefg", row.values(), strict=True)))
    assert (layout.image, layout.title, layout.id) == ("b", "c", None)  # an id is known by its name alone
    assert [task.name for task in layout.tasks] == ["d", "e"] and layout.lines["a"].startswith("not used: 60 different")


@pytest.mark.parametrize(("asked", "expected"), [
    ("tags", TAGS),
    ("Main Colour", COLOUR),
    ("color=Main Colour", TaskColumn("color", "single_label", "|", "Main Colour")),
    ("color=Main Colour:multi_label:/", TaskColumn("color", "multi_label", "/", "Main Colour")),
    ("tags:multi_label", TAGS),
])  # fmt: skip
def test_a_task_may_be_named_in_part_or_whole(rows, asked, expected):
    layout = looked(rows, tasks=[asked])
    assert layout.tasks == [expected]
    assert sum(line.startswith("labels") for line in layout.lines.values()) == 1


@pytest.mark.parametrize("separator", ["|", ";", ",", ", "])
def test_labels_that_share_parts_are_several_in_one(rows, separator):
    layout = looked(rows, lambda _, row: row | {"tags": row["tags"].replace("|", separator)})
    assert layout.tasks[1] == TaskColumn("tags", "multi_label", separator.strip(), "tags")


def test_a_comma_in_a_label_is_no_separator(rows):
    layout = looked(rows, lambda n, row: row | {"tags": ("one, size", "two, sizes", "none")[n % 3]})
    assert layout.tasks[1] == TaskColumn("tags", "single_label", "|", "tags")


def test_a_split_column_and_further_images_are_seen(rows):
    layout = looked(rows, lambda n, row: row | {"Split": ("TRAIN", "val", "test")[n % 3], "back": row["photo"]})
    assert layout.split == "Split" and layout.lines["back"] == "not used: more images"
    assert layout.tasks == [COLOUR, TAGS]


def test_a_column_that_only_repeats_is_no_split(rows):
    layout = looked(rows, lambda n, row: row | {"split": ("wool", "silk")[n % 2]})
    assert layout.split is None and [task.name for task in layout.tasks] == ["Main_Colour", "tags", "task_split"]


def test_bytes_and_lists_of_parquet_are_seen(rows, tmp_path):
    folder, read = rows
    columns = {name: [row[name] for row in read] for name in ("sku", "name", "Main Colour")}
    columns |= {"picture": [(folder / row["photo"]).read_bytes() for row in read]}
    columns |= {"tags": [row["tags"].split("|") for row in read], "file": [{"bytes": b"", "path": "x"}] * len(read)}
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    layout = look(ParquetSource(tmp_path / "shop.parquet"), tmp_path, Given())
    assert layout.image == "picture" and layout.tasks == [COLOUR, TAGS]


@pytest.mark.parametrize(("given", "expected"), [
    ({"image": "foto"}, "--image foto: no such column"),
    ({"tasks": ["size"]}, "--task size: no such column; the table has 'sku', 'photo'"),
    ({"tasks": ["size:single_label"]}, "--task size:single_label: no such column"),
    ({"tasks": ["name"]}, "--task name: 60 different values in 60 rows; is it a column of labels?"),
    ({"image": "name"}, "no column holds an image that can be read in its first 20 rows (name: "),
    ({"image": "photo", "title": "photo", "tasks": ["shop"]}, "--task shop: no such column"),
])  # fmt: skip
def test_what_is_given_is_held_against_the_table(rows, given, expected):
    with pytest.raises(ValueError) as caught:
        looked(rows, **given)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def with_cells(**cells: str) -> Callable[[int, Row], Row]:
    return lambda _, row: row | cells


@pytest.mark.parametrize(("change", "given", "expected"), [
    (with_cells(photo="gone/1.jpg"), {}, "(photo: "),
    (with_cells(photo="https://shop.test/1.jpg"), {}, "images are read from files only; download them"),
    (with_cells(photo=""), {}, "no column holds an image that can be read"),
    (with_cells(tags="new"), {"tasks": ["tags"]}, "--task tags: one value only, 'new'"),
    (with_cells(tags="n/a"), {"tasks": ["tags"]}, "--task tags: empty"),
    (lambda n, row: row | {"Main Colour": "red", "tags": f"t{n}"}, {}, "no column looks like labels"),
])  # fmt: skip
def test_a_table_that_cannot_be_learned_from_is_one_line(rows, change, given, expected):
    with pytest.raises(ValueError) as caught:
        looked(rows, change, **given)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_table_without_titles_is_one_line(rows):
    folder, read = rows
    untitled = [{name: cell for name, cell in row.items() if name != "name"} for row in read]
    with pytest.raises(ValueError, match="no column looks like titles; --title names one"):
        looked((folder, untitled))


def test_a_column_whose_name_has_no_letter_is_named_not_refused(rows):
    layout = looked(rows, lambda n, row: row | {"\N{ARTIST PALETTE}": ("wool", "silk")[n % 2]})
    assert layout.tasks == [COLOUR, TAGS]
    assert "no name for a task; --task NAME=" in layout.lines["\N{ARTIST PALETTE}"]
    given = looked(rows, lambda n, row: row | {"\N{ARTIST PALETTE}": ("wool", "silk")[n % 2]},
                   tasks=["cloth=\N{ARTIST PALETTE}"])  # fmt: skip
    assert given.tasks == [TaskColumn("cloth", "single_label", "|", "\N{ARTIST PALETTE}")]
