"""A catalogue that cannot be used: one clear line, and nothing written."""

from __future__ import annotations

import pytest
from data_set_files import HEADER, catalog_arguments, error_of, good_rows, write_csv

from train.prepare.__main__ import main


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--title-column", "titel"], "no column 'titel'; it has 'sku', 'photo', 'name', 'color', 'tags'"),
        (["--task", "size:single_label"], "no column 'size'"),
        (["--task", "color:single_label"], "twice"),
        (["--task", "name"], "expected [NAME=]COLUMN:KIND"),
        (["--task", "the color:single_label"], "letters, digits and _"),
        (["--task", "title:single_label"], "none of id, image, title, split"),
        (["--labels", "size=sizes.txt"], "--labels size=sizes.txt"),
        (["--labels", "color=none.txt"], "cannot be read"),
        (["--validation", "0.6", "--test", "0.4"], "below 1 in all"),
        (["--max-rejects", "2"], "--max-rejects 2.0"),
        (["--workers", "0"], "--workers 0"),
    ],
)
def test_wrong_options_are_one_clear_line(tmp_path, capsys, more, expected):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 4))
    assert main(catalog_arguments(table, tmp_path / "out", *more)) == 2
    assert expected in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_tables_are_one_clear_line(tmp_path, capsys):
    (tmp_path / "shop.parquet").write_bytes(b"PAR1 is not enough")
    for table, expected in ((tmp_path / "no.csv", "no such file"), (tmp_path / "shop.parquet", "not a Parquet file")):
        assert main(catalog_arguments(table, tmp_path / "out")) == 2
        message = error_of(capsys)
        assert expected in message and str(table) in message


def test_a_single_label_task_needs_two_labels(tmp_path, capsys):
    rows = [[*row[:3], "red", ""] for row in good_rows(tmp_path, 4)]
    assert main(catalog_arguments(write_csv(tmp_path / "shop.csv", rows), tmp_path / "out")) == 2
    assert "task color: a single_label task needs 2 or more labels, its column holds ['red']" in error_of(capsys)


def test_a_column_that_is_no_label_column_is_noticed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dataset.survey.MOST_LABELS", 3)
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 5))
    assert main(catalog_arguments(table, tmp_path / "out", "--task", "sku:single_label")) == 2
    assert "column sku holds more than 3 labels" in error_of(capsys)


def test_too_many_bad_rows_write_nothing(tmp_path, capsys):
    rows = good_rows(tmp_path, 10)
    for row in rows[:6]:
        row[1] = "gone.jpg"
    table = write_csv(tmp_path / "shop.csv", rows)
    assert main(catalog_arguments(table, tmp_path / "out")) == 2
    assert "6 of 10 rows rejected" in error_of(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("cells", "lost"),
    [
        (["test"] * 4, "train and validation"),
        (["train", "train", "", ""], "validation"),
        (["train", "val", "validation", "tset"], "test"),
        (["0", "1", "2", "0"], "train and validation and test"),
        (["True", "False", "True", "False"], "train and validation and test"),
    ],
)
def test_a_split_that_is_lost_whole_is_refused_at_once(tmp_path, capsys, cells, lost):
    rows = [[*row, cell] for row, cell in zip(good_rows(tmp_path, 4), cells, strict=True)]
    table = write_csv(tmp_path / "shop.csv", rows, [*HEADER, "part"])
    assert main(catalog_arguments(table, tmp_path / "out", "--split-column", "part")) == 2
    assert f"--split-column part: no row for {lost}; its cells are " in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_a_split_of_which_all_rows_are_rejected_writes_nothing(tmp_path, capsys):
    rows = [[*row, split] for row, split in zip(good_rows(tmp_path, 4), ["train", "train", "val", "test"], strict=True)]
    rows[2][1] = "gone.jpg"
    table = write_csv(tmp_path / "shop.csv", rows, [*HEADER, "part"])
    assert main(catalog_arguments(table, tmp_path / "out", "--split-column", "part")) == 2
    assert "no row is left for the validation split" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_names_stand_in_quotes(tmp_path, capsys):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 4), ["sku", " photo", "name", "color", "tags"])
    assert main(catalog_arguments(table, tmp_path / "out")) == 2
    assert "no column 'photo'; it has 'sku', ' photo', 'name'" in error_of(capsys)


def test_options_that_exclude_each_other(tmp_path, capsys):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 4))
    assert main(catalog_arguments(table, tmp_path / "out", "--split-column", "tags", "--group-column", "name")) == 2
    assert "--split-column gives the splits and --group-column draws them" in error_of(capsys)
