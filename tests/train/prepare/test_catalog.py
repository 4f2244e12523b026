"""A catalogue of one's own: CSV and Parquet in, data set and list of bad rows out."""

from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_set_files import (
    HEADER,
    all_rows,
    catalog_arguments,
    contents,
    error_of,
    good_rows,
    picture,
    rejects,
    rows_of,
    write_csv,
)

from dataset.format import DatasetInfo
from train.prepare.__main__ import main


def test_a_csv_comes_back_as_it_was(tmp_path):
    rows = good_rows(tmp_path, 40)
    assert main(catalog_arguments(write_csv(tmp_path / "shop.csv", rows), tmp_path / "out")) == 0
    info = DatasetInfo.read(tmp_path / "out")
    assert [(task.name, task.kind, task.labels) for task in info.tasks] == [
        ("color", "single_label", ["blue", "red"]),
        ("tags", "multi_label", ["new", "sale"]),
    ]
    assert set(info.splits) == {"train", "validation", "test"}
    found = all_rows(tmp_path / "out")
    assert len(found) == 40 and not (tmp_path / "out" / "rejects.csv").exists()
    for n, (sku, photo, name, color, tags) in enumerate(rows):
        expected = {"id": sku, "title": name, "color": color, "tags": tags.split("|") if tags else None}
        assert found[f"sku{n}"] == expected | {"image": (tmp_path / photo).read_bytes()}


def test_every_kind_of_bad_row_is_listed_and_the_others_stay(tmp_path):
    rows = good_rows(tmp_path, 12)
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "half.jpg").write_bytes(picture()[:-200])
    (tmp_path / "empty.jpg").write_bytes(b"")
    bad = {
        "lost": (["lost", "photos/none.jpg", "Dress", "red", ""], "IMG_UNREADABLE: "),
        "folder": (["folder", "photos", "Dress", "red", ""], "Is a directory"),
        "text": (["text", "text.jpg", "Dress", "red", ""], "IMG_UNDECODABLE"),
        "half": (["half", "half.jpg", "Dress", "red", ""], "IMG_TRUNCATED"),
        "empty": (["empty", "empty.jpg", "Dress", "red", ""], "IMG_EMPTY"),
        "nothing": (["nothing", " ", " ", "red", ""], "NO_MODALITY: neither title nor image"),
        "sku3": (["sku3", "photos/3.jpg", "Dress", "red", ""], "DUPLICATE_ID: an earlier row has this id"),
        "long": (
            ["long", "photos/3.jpg", "x" * 131_073, "red", ""],
            "ROW_UNUSABLE: line 21: not a CSV row: field larger than field limit",
        ),
        "": (["", "photos/3.jpg", "Dress", "red", ""], "NO_ID: "),
        "short": (["short", "photos/3.jpg"], "ROW_UNUSABLE: line 23: 2 cells, the header has 5"),
    }
    table = write_csv(tmp_path / "shop.csv", rows + [row for row, _ in bad.values()])
    assert main(catalog_arguments(table, tmp_path / "out")) == 0
    found = rejects(tmp_path / "out")
    expected = {(13 + n, id): why for n, (id, (_, why)) in enumerate(bad.items())}
    assert found.keys() == expected.keys()
    for key, why in expected.items():
        assert why in found[key], (key, found[key])
    assert set(all_rows(tmp_path / "out")) == {row[0] for row in rows}


def test_titles_or_pictures_alone_are_enough(tmp_path):
    rows = good_rows(tmp_path, 6)
    rows[0][1], rows[1][2] = "", ""
    assert main(catalog_arguments(write_csv(tmp_path / "shop.csv", rows), tmp_path / "out")) == 0
    found = all_rows(tmp_path / "out")
    assert found["sku0"]["image"] == b"" and found["sku0"]["title"] == rows[0][2]
    assert found["sku1"]["title"] == "" and found["sku1"]["image"] == (tmp_path / rows[1][1]).read_bytes()


def test_a_row_that_is_not_utf8_is_rejected_alone(tmp_path):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 8))
    table.write_bytes(table.read_bytes().replace(b"no. 2", b"no. \xff"))
    assert main(catalog_arguments(table, tmp_path / "out")) == 0
    assert rejects(tmp_path / "out") == {(3, "sku2"): "TXT_INVALID_UTF8: line 4: name is not UTF-8"}
    assert len(all_rows(tmp_path / "out")) == 7


def test_known_labels_keep_their_order_and_reject_others(tmp_path):
    rows = good_rows(tmp_path, 8)
    rows[5][3] = "mauve"
    (tmp_path / "colors.txt").write_text("red\n\nblue \ngreen\n")
    labels = ["--labels", f"color={tmp_path / 'colors.txt'}"]
    assert main(catalog_arguments(write_csv(tmp_path / "shop.csv", rows), tmp_path / "out", *labels)) == 0
    assert DatasetInfo.read(tmp_path / "out").tasks[0].labels == ["red", "blue", "green"]
    assert rejects(tmp_path / "out") == {
        (6, "sku5"): "ROW_UNUSABLE: color: label 'mauve' is not among the 3 known ones"
    }


def test_parquet_with_bytes_and_lists(tmp_path):
    columns = {
        "sku": [1, 2, 3, 4, 5],
        "photo": [picture(1), picture(2, "PNG"), None, b"junk", picture(5)],
        "name": ["one", None, "three", "four", "five"],
        "color": ["red", "blue", "red", "blue", None],
        "tags": [["a", "b"], [], None, ["a"], ["b", "b", None]],
    }
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    assert main(catalog_arguments(tmp_path / "shop.parquet", tmp_path / "out")) == 0
    found = all_rows(tmp_path / "out")
    assert {id: (row["color"], row["tags"]) for id, row in found.items()} == {
        "1": ("red", ["a", "b"]),
        "2": ("blue", []),
        "3": ("red", None),
        "5": (None, ["b"]),
    }
    assert found["2"]["image"] == columns["photo"][1] and found["2"]["title"] == ""
    assert found["3"]["image"] == b""
    assert rejects(tmp_path / "out")[(4, "4")].startswith("IMG_UNDECODABLE")


def test_parquet_directory_with_pictures_as_files_and_structs(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "a.jpg").write_bytes(picture(7))
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": picture(1), "path": None}, {"bytes": None, "path": "a.jpg"}]
    for n, cell in enumerate(cells):
        columns = {"sku": [f"{n}"], "name": [f"t{n}"], "color": [("red", "blue")[n]], "tags": ["x|y"]}
        table = pa.table(columns).append_column("photo", pa.array([cell], struct))
        pq.write_table(table, tmp_path / "shop" / f"{n}.parquet")
    shares = ["--validation", "0", "--test", "0"]
    assert main(catalog_arguments(tmp_path / "shop", tmp_path / "out", *shares)) == 0
    rows = rows_of(tmp_path / "out", "train")
    assert [row["image"] for row in rows] == [picture(1), picture(7)]
    assert [row["tags"] for row in rows] == [["x", "y"]] * 2


@pytest.mark.parametrize(("title", "expected"), [(4, "4"), (4.0, "4"), (4.5, "4.5"), (Decimal("1.50"), "1.5")])
def test_a_parquet_title_that_is_a_number_is_text(tmp_path, title, expected):
    columns = {"sku": ["a", "b"], "photo": [picture(), picture()], "name": [title, None], "color": ["red", "blue"]}
    pq.write_table(pa.table(columns | {"tags": ["x", "x"]}), tmp_path / "shop.parquet")
    shares = ["--validation", "0", "--test", "0"]
    assert main(catalog_arguments(tmp_path / "shop.parquet", tmp_path / "out", *shares)) == 0
    assert {id: row["title"] for id, row in all_rows(tmp_path / "out").items()} == {"a": expected, "b": ""}


def test_titles_that_are_neither_text_nor_numbers_are_rejected(tmp_path):
    columns = {"sku": ["a", "b", "c", "d"], "photo": [picture(n) for n in range(4)], "color": ["red", "blue"] * 2}
    columns |= {"name": [["Red"], None, None, None], "tags": ["x"] * 4}
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    shares = ["--validation", "0", "--test", "0"]
    assert main(catalog_arguments(tmp_path / "shop.parquet", tmp_path / "out", *shares)) == 0
    assert rejects(tmp_path / "out") == {(1, "a"): "ROW_UNUSABLE: title is list, expected text or a number"}


def test_nan_is_no_value_as_pandas_writes_it(tmp_path):
    nan = float("nan")
    columns = {
        "sku": [1.5, nan, 3.0, 4.0],
        "photo": pa.array([None] * 4, pa.string()),
        "name": ["one", "two", None, "four"],
        "color": ["red", "blue", "red", "blue"],
        "tags": [["x"]] * 4,
        "share": [nan, nan, nan, nan],
    }
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    shares = ["--validation", "0", "--test", "0", "--task", "share:multi_label"]
    (tmp_path / "shares.txt").write_text("none\n")
    labels = ["--labels", f"share={tmp_path / 'shares.txt'}"]
    assert main(catalog_arguments(tmp_path / "shop.parquet", tmp_path / "out", *shares, *labels)) == 0
    assert {id: row["share"] for id, row in all_rows(tmp_path / "out").items()} == {"1.5": None, "4": None}
    assert rejects(tmp_path / "out") == {
        (2, ""): "NO_ID: the row has no id",
        (3, "3"): "NO_MODALITY: neither title nor image",
    }


def test_the_split_column_decides_in_every_spelling_and_other_names_are_rejected(tmp_path):
    cells = ["train", " Val ", "TEST", "Training", "dev", "valid", "validation", "", "tset"]
    rows = [[*row, split] for row, split in zip(good_rows(tmp_path, 9), cells, strict=True)]
    table = write_csv(tmp_path / "shop.csv", rows, [*HEADER, "part"])
    assert main(catalog_arguments(table, tmp_path / "out", "--split-column", "part")) == 0
    found = {
        split: [row["id"] for row in rows_of(tmp_path / "out", split)] for split in ("train", "validation", "test")
    }
    assert found == {"train": ["sku0", "sku3"], "validation": ["sku1", "sku4", "sku5", "sku6"], "test": ["sku2"]}
    expected = "expected train, validation (or valid, val, dev) or test"
    assert rejects(tmp_path / "out") == {
        (8, "sku7"): f"ROW_UNUSABLE: split '', {expected}",
        (9, "sku8"): f"ROW_UNUSABLE: split 'tset', {expected}",
    }


def test_a_product_keeps_its_split_when_the_catalogue_grows(tmp_path):
    rows = good_rows(tmp_path, 40)
    small = write_csv(tmp_path / "small.csv", rows[:20])
    large = write_csv(tmp_path / "large.csv", rows[::-1])
    for table in (small, large):
        assert main(catalog_arguments(table, tmp_path / table.stem, "--test", "0.3")) == 0
    before, after = (
        {
            row["id"]: split
            for split in DatasetInfo.read(tmp_path / name).splits
            for row in rows_of(tmp_path / name, split)
        }
        for name in ("small", "large")
    )
    assert len(set(before.values())) > 1
    assert before.items() <= after.items()


def test_worker_count_does_not_change_the_data_set(tmp_path):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 30))
    for workers in ("1", "3"):
        assert main(catalog_arguments(table, tmp_path / workers, "--workers", workers)) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_a_changed_table_is_not_already_there(tmp_path, capsys):
    rows = good_rows(tmp_path, 8)
    table = write_csv(tmp_path / "shop.csv", rows[:7])
    assert main(catalog_arguments(table, tmp_path / "out")) == 0
    assert main(catalog_arguments(table, tmp_path / "out")) == 0
    assert "already there" in capsys.readouterr().out
    write_csv(table, rows)
    assert main(catalog_arguments(table, tmp_path / "out")) == 2
    assert "--overwrite" in error_of(capsys)


def test_data_set_settings_are_plain_json(tmp_path):
    table = write_csv(tmp_path / "shop.csv", good_rows(tmp_path, 6))
    assert main(catalog_arguments(table, tmp_path / "out")) == 0
    settings = json.loads((tmp_path / "out" / "dataset.json").read_text())["settings"]
    assert settings["csv"] == str(table) and settings["task"] == ["color:single_label", "tags:multi_label"]
    assert not {"output", "overwrite", "workers"} & set(settings)
