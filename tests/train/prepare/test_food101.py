"""UPMC Food-101 from small folders of Kaggle's layout."""

from __future__ import annotations

import pytest
from data_set_files import all_rows, error_of, rejects, rows_of
from official_files import write_food101

from dataset.format import DatasetInfo
from dataset.splits import SplitShares
from train.prepare import food101
from train.prepare.__main__ import main
from train.prepare.food101 import without_artefact, without_name

DISHES = ("apple_pie", "creme_brulee")
TRAIN = [(f"{dish}_{n}.jpg", f'Best, "{dish}" no. {n}', dish) for n in range(12) for dish in DISHES]
TEST = [
    ("apple_pie_900.jpg", '[["Apple Pie Recipe | Food.com"]]', "apple_pie"),
    ("creme_brulee_901.jpg", "Crème\nbrûlées", "creme_brulee"),
]


@pytest.fixture
def source(tmp_path):
    write_food101(tmp_path / "upmc", {"train": TRAIN, "test": TEST})
    return tmp_path / "upmc"


def arguments(source, output, *more):
    return ["food101", "--source", str(source), "--output", str(output), "--workers", "1", *more]


def test_the_first_row_is_no_header_and_bytes_stay_as_they_are(tmp_path):
    pictures = write_food101(tmp_path / "upmc", {"train": TRAIN, "test": TEST})
    assert (tmp_path / "upmc/texts/train_titles.csv").read_bytes().startswith(b'apple_pie_0.jpg,"Best, ""apple_pie""')
    assert main(arguments(tmp_path / "upmc", tmp_path / "out")) == 0
    (task,) = DatasetInfo.read(tmp_path / "out").tasks
    assert (task.name, task.kind, task.labels) == ("dish", "single_label", ["apple_pie", "creme_brulee"])
    found = all_rows(tmp_path / "out")
    assert len(found) == len(TRAIN) + len(TEST)
    for name, title, dish in TRAIN:
        id = name.removesuffix(".jpg")
        assert found[id] == {"id": id, "image": pictures[name], "title": title, "dish": dish}
    assert found["apple_pie_900"]["title"] == "Apple Pie Recipe | Food.com"
    assert found["creme_brulee_901"]["title"] == "Crème\nbrûlées"
    assert {row["id"] for row in rows_of(tmp_path / "out", "test")} == {"apple_pie_900", "creme_brulee_901"}


def test_validation_goes_by_id_and_seed(source, tmp_path):
    places = {}
    for seed in (0, 1):
        assert main(arguments(source, tmp_path / str(seed), "--seed", str(seed))) == 0
        places[seed] = {row["id"] for row in rows_of(tmp_path / str(seed), "validation")}
        ids = {name.removesuffix(".jpg") for name, _, _ in TRAIN}
        assert places[seed] == {id for id in ids if SplitShares(0.2, 0, seed).split_of(id) == "validation"}
    assert places[0] and places[0] != places[1]


@pytest.mark.parametrize(
    ("title", "dish", "expected"),
    [
        ("Apple Pie recipe", "apple_pie", "recipe"),
        ("Mom's APPLE-PIES, apple_pie and applepie!", "apple_pie", "Mom's , and !"),
        ("Pineapple pie, apple piece", "apple_pie", "Pineapple pie, apple piece"),
        ("Classic Cre\u0300me Bru\u0302le\u0301e | Crème Brûlée", "creme_brulee", "Classic |"),
        ("Waffle, waffles", "waffles", ","),
        ("apple pie", "apple_pie", ""),
    ],
)
def test_the_name_of_the_dish_can_be_masked(title, dish, expected):
    assert without_name(title, dish) == expected


def test_masked_titles_are_written(source, tmp_path):
    assert main(arguments(source, tmp_path / "out", "--mask-class-name")) == 0
    titles = {row["id"]: row["title"] for row in rows_of(tmp_path / "out", "test")}
    assert titles == {"apple_pie_900": "Recipe | Food.com", "creme_brulee_901": ""}
    assert main(arguments(source, tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ('[["A ""b"" c"]]', 'A ""b"" c'),
        ("[['A']]", "A"),
        (" plain [[x]] ", "plain [[x]]"),
        ('[["two"]] more', '[["two"]] more'),
    ],
)
def test_the_artefact_is_stripped(title, expected):
    assert without_artefact(title) == expected


def test_a_missing_picture_stops_at_once_and_is_named(source, tmp_path, capsys):
    lost = source / "images/train/apple_pie/apple_pie_3.jpg"
    lost.unlink()
    assert main(arguments(source, tmp_path / "out")) == 2
    message = error_of(capsys)
    assert f"{lost}: no such image; 1 of 26 are missing, --max-rejects allows 0.1%" in message
    assert not list(tmp_path.glob("out*"))
    assert main(arguments(source, tmp_path / "out", "--max-rejects", "0.1")) == 0
    assert rejects(tmp_path / "out") == {(7, "apple_pie_3"): f"IMG_UNREADABLE: {lost}: No such file or directory"}


def test_pictures_without_a_title_are_counted_and_left_out(source, tmp_path, capsys):
    folder = source / "images/train/apple_pie"
    (folder / "apple_pie_77.jpg").write_bytes((folder / "apple_pie_0.jpg").read_bytes())
    assert main(arguments(source, tmp_path / "out")) == 0
    assert "train: 1 images without a title are left out, such as apple_pie_77.jpg" in capsys.readouterr().out
    assert "apple_pie_77" not in all_rows(tmp_path / "out")


def test_bad_rows_are_rejects(source, tmp_path):
    table = source / "texts/test_titles.csv"
    (source / "images/test/apple_pie/apple_pie_902.jpg").write_bytes(b"not a picture")
    (source / "images/test/apple_pie/apple_pie_903.jpg").write_bytes(b"x")
    more = b"a.jpg,only\r\nx_1.jpg,t,pizza\r\napple_pie_900.jpg,again,apple_pie\r\napple_pie_902.jpg,t,apple_pie\r\n"
    table.write_bytes(table.read_bytes() + more + b"apple_pie_903.jpg,\xff,apple_pie\r\n")
    assert main(arguments(source, tmp_path / "out", "--max-rejects", "0.5")) == 0
    found = rejects(tmp_path / "out")
    expected = {
        (3, ""): "ROW_UNUSABLE: test_titles.csv: 2 cells, expected image, title, dish",
        (4, "x_1"): "ROW_UNUSABLE: test_titles.csv: dish 'pizza' is not among the 2 of images/train",
        (5, "apple_pie_900"): "DUPLICATE_ID: an earlier row has this id",
        (6, "apple_pie_902"): "IMG_UNDECODABLE",
        (7, "apple_pie_903"): "TXT_INVALID_UTF8",
    }
    assert found.keys() == expected.keys()
    for key, why in expected.items():
        assert why in found[key], (key, found[key])


def test_an_id_in_both_halves_is_refused(tmp_path, capsys):
    write_food101(tmp_path / "upmc", {"train": TRAIN, "test": [*TEST, TRAIN[4]]})
    assert main(arguments(tmp_path / "upmc", tmp_path / "out")) == 2
    assert "1 ids are in two splits, such as apple_pie_2 in train_titles.csv and test_titles.csv" in error_of(capsys)


@pytest.mark.parametrize("path", ["texts/test_titles.csv", "images/train", "images/test"])
def test_what_is_missing_is_named(source, tmp_path, capsys, path):
    (source / path).rename(source / "elsewhere")
    assert main(arguments(source, tmp_path / "out")) == 2
    assert f"{source / path}: no such f" in error_of(capsys)


def test_counts_are_held_against_the_papers(source, tmp_path, capsys, monkeypatch):
    assert main(arguments(source, tmp_path / "out")) == 0
    assert "train and validation 24 (the paper's: 67,972), test 2 (the paper's: 22,716)" in capsys.readouterr().out
    monkeypatch.setattr(food101, "PAPER", {"train and validation": 24, "test": 2, "dishes": 2})
    assert main(arguments(source, tmp_path / "out")) == 0
    assert "counts: the paper's\n" in capsys.readouterr().out
