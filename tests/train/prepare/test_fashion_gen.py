"""Fashion-Gen from small files of the official form."""

from __future__ import annotations

import numpy as np
import pytest
from data_set_files import all_rows, contents, error_of, rows_of
from official_files import fashion_gen_rows, pixels_of, write_hdf5

from dataset import parts
from dataset.format import DatasetInfo
from dataset.splits import SplitShares
from train.prepare import fashion_gen
from train.prepare.__main__ import main
from train.prepare.fashion_gen import split_rows

TRAIN = [product for product in range(100, 108) for _ in range(3)]
TEST = [7, 7, 8, 9, 9]
SUBCATEGORIES = [b"SHORT DRESSES", b"LEATHER JACKETS", b"CL\xc9S"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion-gen")
    write(folder, "train", fashion_gen_rows(TRAIN, SUBCATEGORIES))
    write(folder, "validation", fashion_gen_rows(TEST, SUBCATEGORIES))
    return folder


def write(folder, name, rows):
    return write_hdf5(folder / f"fashiongen_256_256_{name}.h5", rows)


def arguments(source, output, *more):
    shares = ["--validation", "0.3", "--workers", "1"]
    return ["fashion_gen", "--source", str(source), "--output", str(output), *shares, *more]


def test_rows_become_products(source, tmp_path):
    assert main(arguments(source, tmp_path / "out")) == 0
    info = DatasetInfo.read(tmp_path / "out")
    (task,) = info.tasks
    assert (task.name, task.kind) == ("subcategory", "single_label")
    assert task.labels == ["CL\xc9S", "LEATHER JACKETS", "SHORT DRESSES"]
    assert info.settings["data_set"] == "fashion_gen"
    found = all_rows(tmp_path / "out")
    assert set(found) == {f"{product}-{row}" for file in (TRAIN, TEST) for row, product in enumerate(file)}
    raw = fashion_gen_rows(TRAIN, SUBCATEGORIES)
    for row, product in enumerate(TRAIN):
        made = found[f"{product}-{row}"]
        assert made["title"] == f"Robe d\xe9t\xe9 {product} input_description {product}"
        assert made["subcategory"].encode("latin-1") == SUBCATEGORIES[product % 3]
        difference = pixels_of(made["image"]).astype(int) - raw["input_image"][row]
        assert difference.shape == (256, 256, 3) and np.abs(difference).mean() < 2


def test_pictures_of_a_product_stay_in_one_split(source, tmp_path):
    assert main(arguments(source, tmp_path / "out")) == 0
    products = {
        split: {row["id"].partition("-")[0] for row in rows_of(tmp_path / "out", split)}
        for split in ("train", "validation", "test")
    }
    shares = SplitShares(0.3, 0, 0)
    assert products["validation"] == {str(id) for id in set(TRAIN) if shares.split_of(str(id)) == "validation"}
    assert products["train"] == {str(id) for id in set(TRAIN)} - products["validation"] and products["validation"]
    assert products["test"] == {"7", "8", "9"}
    rows = DatasetInfo.read(tmp_path / "out").splits
    assert rows["train"].rows + rows["validation"].rows == len(TRAIN) and rows["test"].rows == len(TEST)


def test_the_validation_share_goes_by_product_and_seed():
    ids = np.repeat(np.arange(4000), 5)
    first, other = (split_rows(ids, SplitShares(0.05, 0, seed)) for seed in (0, 1))
    assert len(first["validation"]) / len(ids) == pytest.approx(0.05, abs=0.01)
    assert not {ids[row] for row in first["train"]} & {ids[row] for row in first["validation"]}
    assert first != other and sorted(first["train"] + first["validation"]) == list(range(len(ids)))


@pytest.mark.parametrize(
    ("text", "title"),
    [("description", "input_description 7"), ("concat_description", "input_concat_description 7")],
)
def test_another_text_may_be_the_title(source, tmp_path, text, title):
    assert main(arguments(source, tmp_path / "out", "--text", text)) == 0
    assert {row["title"] for row in rows_of(tmp_path / "out", "test") if row["id"].startswith("7-")} == {title}


def test_counts_are_held_against_the_papers(source, tmp_path, capsys, monkeypatch):
    assert main(arguments(source, tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "counts: not the paper's: train and validation 24 (the paper's: 260,480), test 5" in shown
    monkeypatch.setattr(fashion_gen, "PAPER", {"train and validation": 24, "test": 5, "subcategories": 3})
    assert main(arguments(source, tmp_path / "out", "--overwrite")) == 0
    assert "counts: the paper's\n" in capsys.readouterr().out


def test_worker_count_does_not_change_the_data_set(source, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 7)
    for workers in ("1", "2"):
        assert main(arguments(source, tmp_path / workers, "--workers", workers)) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len([name for name in contents(tmp_path / "1") if name.endswith("parquet")]) >= 4


def test_a_file_cut_short_is_one_clear_line(source, tmp_path, capsys):
    for name in ("train", "validation"):
        whole = source / f"fashiongen_256_256_{name}.h5"
        (tmp_path / whole.name).write_bytes(whole.read_bytes())
    cut = tmp_path / "fashiongen_256_256_validation.h5"
    cut.write_bytes(cut.read_bytes()[:-100_000])
    assert main(arguments(tmp_path, tmp_path / "out")) == 2
    message = error_of(capsys)
    assert f"{cut}: not a whole HDF5 file (" in message and "truncated" in message and "download it again" in message
    cut.unlink()
    assert main(arguments(tmp_path, tmp_path / "out")) == 2
    assert f"{cut}: no such file" in error_of(capsys)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("key", "change", "expected"),
    [
        ("input_image", None, "no dataset input_image; it has index, index_2"),
        ("input_name", None, "no dataset input_name"),
        ("input_image", lambda v: v[:, :128], "input_image has the shape (5, 128, 256, 3), expected (N, 256, 256, 3)"),
        ("input_image", lambda v: v.astype(np.float32), "input_image is of type float32"),
        ("input_productID", lambda v: v[:, 0], "input_productID has the shape (5,), expected (N, 1)"),
        ("input_subcategory", lambda v: v[:-1], "the datasets differ in length"),
        ("input_productID", lambda v: v + 93, "3 ids are in two splits, such as 100 in fashiongen_256_256_train.h5"),
        ("input_subcategory", lambda v: np.array([[b""]] + [[b"SHORT DRESSES"]] * 4), "no subcategory"),
    ],
)
def test_files_of_another_form_are_one_clear_line(source, tmp_path, capsys, key, change, expected):
    (tmp_path / "fashiongen_256_256_train.h5").symlink_to(source / "fashiongen_256_256_train.h5")
    rows = fashion_gen_rows(TEST, SUBCATEGORIES)
    values = rows.pop(key)
    write(tmp_path, "validation", rows | ({key: change(values)} if change else {}))
    assert main(arguments(tmp_path, tmp_path / "out")) == 2
    assert expected in error_of(capsys)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("option", [("--quality", "0"), ("--validation", "1"), ("--workers", "0")])
def test_options_out_of_range(source, tmp_path, capsys, option):
    assert main(arguments(source, tmp_path / "out", *option)) == 2
    assert " ".join(option) in error_of(capsys)
