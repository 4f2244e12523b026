"""Own catalogues: labels that are one, labels that are none, tasks of a bundle, products that are the same."""

from __future__ import annotations

import os
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_set_files import all_rows, catalog_arguments, error_of, good_rows, picture, rows_of, write_csv

from dataset.format import DatasetInfo
from train.prepare.__main__ import main

ALL_TRAIN = ["--validation", "0", "--test", "0"]


def colored(folder: Path, colors: list, kind: pa.DataType | None = None, first: int = 0) -> Path:
    """A Parquet file of products with these colors; two tags keep the other task content."""
    count = len(colors)
    columns = {"sku": [f"p{first + n}" for n in range(count)], "photo": [picture(first + n) for n in range(count)]}
    columns |= {"name": [f"title {first + n}" for n in range(count)], "tags": ["x"] * count}
    folder.mkdir(exist_ok=True)
    path = folder / f"{first}.parquet"
    pq.write_table(pa.table(columns).append_column("color", pa.array(colors, kind)), path)
    return path


def prepared(table: Path, output: Path, *more: str) -> DatasetInfo:
    assert main(catalog_arguments(table, output, *more)) == 0
    return DatasetInfo.read(output)


def colors_in(output: Path) -> list[str | None]:
    return [row["color"] for row in sorted(all_rows(output).values(), key=lambda row: row["id"])]


def csv_of(tmp_path: Path, colors: list[str], tags: list[str] | None = None) -> Path:
    rows = good_rows(tmp_path, len(colors))
    for n, (row, color) in enumerate(zip(rows, colors, strict=True)):
        row[3] = color
        row[4] = tags[n] if tags else "x"
    return write_csv(tmp_path / "shop.csv", rows)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (([0, 1, 2], pa.int64()), ([0.0, None, 2.0], pa.float64())),
        (([0, 1, 2], pa.uint8()), ([0.0, 1.0, 2.0], pa.float32())),
        (([0, 1, 2], pa.int8()), (["0", "1.0", None], pa.string())),
        (([Decimal(0), Decimal(1), Decimal(2)], pa.decimal128(3, 0)), ([b"0", b"1", b"2"], pa.binary())),
        ((["0", "1", "2"], pa.dictionary(pa.int8(), pa.string())), ([0.0, 1.0, 2.0], pa.float16())),
    ],
)
def test_a_number_is_one_class_whatever_its_type(tmp_path, first, second):
    colored(tmp_path / "shop", *first)
    colored(tmp_path / "shop", *second, first=3)
    info = prepared(tmp_path / "shop", tmp_path / "out", *ALL_TRAIN)
    assert info.tasks[0].labels == ["0", "1", "2"]
    assert colors_in(tmp_path / "out")[:3] == ["0", "1", "2"]
    assert {"0", "1", "2", None}.issuperset(colors_in(tmp_path / "out")[3:])


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ([date(2026, 1, 1), date(2026, 1, 2)], "row 1: color: a label is date (2026-01-01), expected text or a number"),
        ([b"\xff", b"\xfe"], "row 1: color: a label is bytes that are no UTF-8"),
        ([["a", "b"], ["b", "c"]], "row 1: color: 2 labels for a single-label task; multi_label takes several"),
        ([None, None], "no cell of color has a label"),
    ],
)
def test_labels_that_are_of_no_use_say_why(tmp_path, capsys, cells, why):
    assert main(catalog_arguments(colored(tmp_path, cells), tmp_path / "out")) == 2
    message = error_of(capsys)
    assert "its column holds []" in message and why in message


def test_labels_that_differ_in_case_are_named_and_merged(tmp_path, capsys):
    table = csv_of(tmp_path, ["Red", " red ", "RED", "blue", "Red", "navy\xa0 blue", "navy blue"])
    info = prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert info.tasks[0].labels == ["RED", "Red", "blue", "navy blue", "navy\xa0 blue", "red"]
    shown = capsys.readouterr().out
    assert "note: color: labels differ in case or blanks only: 'RED' 1 = 'Red' 2 = 'red' 1" in shown
    assert "'navy blue' 1 = 'navy\\xa0 blue' 1; --merge-case makes them one" in shown
    info = prepared(table, tmp_path / "merged", *ALL_TRAIN, "--merge-case")
    assert info.tasks[0].labels == ["Red", "blue", "navy blue"]
    assert colors_in(tmp_path / "merged") == ["Red", "Red", "Red", "blue", "Red", "navy blue", "navy blue"]
    assert "differ in case" not in capsys.readouterr().out


def test_words_for_no_label_are_named_and_taken_as_none(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "blue", "nan", "None", "NA", "N/A", "null", "red", "-"])
    info = prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert len(info.tasks[0].labels) == 8
    shown = capsys.readouterr().out
    assert "color: labels that may mean none: 'N/A' 1, 'NA' 1, 'None' 1, 'nan' 1, 'null' 1;" in shown
    assert "--missing-values N/A NA None nan null takes them as no label" in shown
    info = prepared(table, tmp_path / "usual", *ALL_TRAIN, "--missing-values")
    assert info.tasks[0].labels == ["-", "blue", "red"]
    info = prepared(table, tmp_path / "own", *ALL_TRAIN, "--missing-values", "-", "NONE")
    assert info.tasks[0].labels == ["N/A", "NA", "blue", "nan", "null", "red"]
    assert colors_in(tmp_path / "own")[3] is None and colors_in(tmp_path / "own")[8] is None


def test_a_separator_that_labels_share_parts_over_is_proposed(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "blue"] * 2, ["a, b", "b", "a,c", "c"])
    prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert "--task tags:multi_label:, parts them" in capsys.readouterr().out
    arguments = [
        "tags:multi_label:," if a == "tags:multi_label" else a
        for a in catalog_arguments(table, tmp_path / "parted", *ALL_TRAIN)
    ]
    assert main(arguments) == 0
    assert DatasetInfo.read(tmp_path / "parted").tasks[1].labels == ["a", "b", "c"]
    assert "parts them" not in capsys.readouterr().out


def test_a_comma_within_a_name_is_no_separator(tmp_path, capsys):
    prepared(csv_of(tmp_path, ["red, dark", "blue, light"]), tmp_path / "out", *ALL_TRAIN)
    assert "parts them" not in capsys.readouterr().out


def test_lists_as_text_are_lists_and_an_empty_one_is_none_of_the_labels(tmp_path):
    table = csv_of(tmp_path, ["red", "blue"] * 2, ["['a', 'b']", "[]", '["b"]', ""])
    info = prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert info.tasks[1].labels == ["a", "b"]
    assert [row["tags"] for row in rows_of(tmp_path / "out", "train")] == [["a", "b"], [], ["b"], None]


def test_labels_of_rejected_rows_only_become_no_outputs(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "blue", "mauve", "red"])
    (tmp_path / "photos/2.jpg").write_bytes(b"no image")
    info = prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert info.tasks[0].labels == ["blue", "red"]
    assert info.splits["train"].label_counts["color"] == {"blue": 1, "red": 2}
    assert "note: color: labels of rejected rows only are no outputs: 'mauve'" in capsys.readouterr().out


def test_too_few_labels_of_rows_that_are_left_are_refused(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "blue", "red", "red"])
    (tmp_path / "photos/1.jpg").write_bytes(b"no image")
    assert main(catalog_arguments(table, tmp_path / "out", *ALL_TRAIN)) == 2
    assert "task color: a single_label task needs 2 or more labels, the rows that are not rejected hold ['red']" in (
        error_of(capsys)
    )
    assert not (tmp_path / "out").exists()


def test_copies_of_a_product_are_counted_and_stay_in_one_split(tmp_path, capsys):
    rows = good_rows(tmp_path, 10)
    copies = [[f"copy{n}", row[1], row[2], *row[3:]] for n, row in enumerate(rows * 3)]
    (tmp_path / "same.jpg").write_bytes((tmp_path / rows[0][1]).read_bytes())
    copies.append(["other", "same.jpg", rows[0][2], "red", ""])
    copies.append(["title", rows[1][1], "another title", "red", ""])
    table = write_csv(tmp_path / "shop.csv", rows + copies)
    info = prepared(table, tmp_path / "out", "--validation", "0.3", "--test", "0.3")
    assert "note: 31 products have the image and title of an earlier one under another id" in capsys.readouterr().out
    places: dict[str, set[str]] = {}
    for split in info.splits:
        for row in rows_of(tmp_path / "out", split):
            places.setdefault(row["title"], set()).add(split)
    assert {len(found) for found in places.values()} == {1} and len(info.splits) > 1


@pytest.mark.parametrize(
    "titles", [["Caf\u00e9", "Cafe\u0301"], ["nan", ""], ["\u200b", None], [4.0, 4.0], ["1.0", " 1.0"]]
)
def test_copies_are_found_by_titles_that_read_the_same(tmp_path, capsys, titles):
    colored(tmp_path / "shop", ["red", "blue"])
    table = pq.read_table(tmp_path / "shop/0.parquet")
    table = table.set_column(1, "photo", pa.array([picture(1)] * 2)).set_column(2, "name", pa.array(titles))
    pq.write_table(table, tmp_path / "shop/0.parquet")
    prepared(tmp_path / "shop", tmp_path / "out", *ALL_TRAIN)
    assert "note: 1 products have the image and title of an earlier one" in capsys.readouterr().out


def test_the_warning_says_how_many_copies_a_split_column_parts(tmp_path, capsys):
    rows = [[*row, split] for row, split in zip(good_rows(tmp_path, 3), ["train", "val", "test"], strict=True)]
    rows += [["copy0", *rows[0][1:5], "val"], ["copy1", *rows[1][1:5], "val"]]
    table = write_csv(tmp_path / "shop.csv", rows, ["sku", "photo", "name", "color", "tags", "part"])
    prepared(table, tmp_path / "out", "--split-column", "part")
    assert (
        "note: 2 products have the image and title of an earlier one under another id, 1 of them in another split"
        in (capsys.readouterr().out)
    )


def test_a_group_stays_in_one_split_and_a_row_without_one_stands_alone(tmp_path):
    rows = [[*row, f"g{n % 4}" if n < 24 else ("", "nan")[n % 2]] for n, row in enumerate(good_rows(tmp_path, 60))]
    rows[1][1:3] = rows[0][1:3]  # a copy joins the groups g0 and g1
    table = write_csv(tmp_path / "shop.csv", rows, ["sku", "photo", "name", "color", "tags", "model"])
    info = prepared(table, tmp_path / "out", "--validation", "0.3", "--test", "0.3", "--group-column", "model")
    split_of = {row["id"]: split for split in info.splits for row in rows_of(tmp_path / "out", split)}
    splits = [{split_of[f"sku{n}"] for n in range(24) if n % 4 == group} for group in range(4)]
    assert {len(found) for found in splits} == {1} and splits[0] == splits[1]
    assert {split_of[f"sku{n}"] for n in range(24, 60)} == {"train", "validation", "test"}
    assert main(catalog_arguments(table, tmp_path / "out", "--validation", "0.3", "--test", "0.3")) == 2


@pytest.mark.parametrize("kind", ["csv", "text", "struct"])
def test_images_changed_in_place_are_seen(tmp_path, capsys, kind):
    table = csv_of(tmp_path, ["red", "blue"] * 2)
    if kind != "csv":
        cells: list = [f"photos/{n}.jpg" for n in range(4)]
        if kind == "struct":
            cells = [{"bytes": None, "path": cell} for cell in cells]
        rows = pq.read_table(colored(tmp_path / "shop", ["red", "blue"] * 2))
        table = tmp_path / "shop.parquet"
        pq.write_table(rows.set_column(1, "photo", pa.array(cells)), table)
    prepared(table, tmp_path / "out", *ALL_TRAIN)
    prepared(table, tmp_path / "out", *ALL_TRAIN)
    assert "already there" in capsys.readouterr().out
    photo = tmp_path / "photos/1.jpg"
    state = photo.stat()
    os.utime(photo, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert main(catalog_arguments(table, tmp_path / "out", *ALL_TRAIN)) == 2
    assert "--overwrite" in error_of(capsys)


def test_a_label_that_no_training_product_has_is_named(tmp_path, capsys):
    rows = [[*row, split] for row, split in zip(good_rows(tmp_path, 4), ["train", "train", "val", "test"], strict=True)]
    rows[3][3] = "mauve"
    rows[2][3] = ""
    table = write_csv(tmp_path / "shop.csv", rows, ["sku", "photo", "name", "color", "tags", "part"])
    prepared(table, tmp_path / "out", "--split-column", "part")
    shown = capsys.readouterr().out
    assert "color: no train product has 'mauve'" in shown and "color: no validation product has a label" in shown
    assert not (tmp_path / "out" / "rejects.csv").exists()


def test_an_output_with_a_colon_in_its_name_is_no_address(tmp_path, monkeypatch):
    table = csv_of(tmp_path, ["red", "blue"])
    monkeypatch.chdir(tmp_path)
    assert main(catalog_arguments(table, Path("shop:june"), *ALL_TRAIN)) == 0
    assert len(all_rows(tmp_path / "shop:june")) == 2


def test_labels_of_too_few_rows_count_as_none(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "Blue", "blue", "blue", "red", "gold"], ["a", "a|b", "b", "c|a", "c", "d"])
    info = prepared(table, tmp_path / "out", *ALL_TRAIN, "--min-products", "2", "--merge-case")
    assert [task.labels for task in info.tasks] == [["blue", "red"], ["a", "b", "c"]]
    assert colors_in(tmp_path / "out") == ["red", "blue", "blue", "blue", "red", None]
    assert "note: color: labels of fewer than 2 rows count as none: 'gold'" in capsys.readouterr().out


def test_labels_that_are_given_are_never_too_rare(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("red\nblue\ngold\n")
    given = ["--labels", f"color={file}", "--labels", f"tags={file}"]
    table = csv_of(tmp_path, ["red", "blue", "gold"], ["red", "red", "blue"])
    info = prepared(table, tmp_path / "out", *ALL_TRAIN, "--min-products", "9", *given)
    assert info.splits["train"].label_counts["color"] == {"red": 1, "blue": 1, "gold": 1}


def test_a_task_all_of_whose_labels_are_too_rare_says_so(tmp_path, capsys):
    table = csv_of(tmp_path, ["red", "red", "blue", "gold"])
    assert main(catalog_arguments(table, tmp_path / "out", "--min-products", "2")) == 2
    assert "task color: a single_label task needs 2 or more labels, its column holds ['red']" in error_of(capsys)


def test_a_task_may_have_another_name_than_its_column(tmp_path):
    rows = [row[:4] for row in good_rows(tmp_path, 4)]
    table = write_csv(tmp_path / "shop.csv", rows, ["sku", "photo", "name", "Base Colour = 1"])
    columns = ["--id-column", "sku", "--image-column", "photo", "--title-column", "name"]
    task = ["--task", "base_colour=Base Colour = 1:single_label"]
    arguments = ["catalog", "--csv", str(table), *columns, *task, "--output", str(tmp_path / "out"), *ALL_TRAIN]
    assert main(arguments) == 0
    assert DatasetInfo.read(tmp_path / "out").tasks[0].name == "base_colour"
    assert [row["base_colour"] for row in rows_of(tmp_path / "out", "train")] == ["red", "blue", "red", "blue"]
