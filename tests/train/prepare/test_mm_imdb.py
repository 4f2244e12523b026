"""MM-IMDb from small raw folders and from a small file of its authors' HDF5 format."""

from __future__ import annotations

import json
import pickle

import h5py
import numpy as np
import pytest
from data_set_files import all_rows, error_of, rejects, rows_of
from official_files import fuel_splits, pixels_of, smooth, write_mm_imdb, write_mm_imdb_hdf5
from tiny import tiny_config

from dataset.format import DatasetInfo
from train.prepare import mm_imdb
from train.prepare.__main__ import main
from train.prepare.mm_imdb.genres import GENRES
from train.prepare.mm_imdb.hdf5 import restore

SPLITS = {"train": ["0000005", "0000008", "0133093", "1000001"], "dev": ["0012349"], "test": ["0407887", "0000417"]}
MOVIES = {
    "0000005": {"plot": ["Short.", "The longest of the plots. "], "genres": ["Short"], "plot outline": "x" * 99},
    "0000008": {"plot": ["A man sneezes."], "genres": ["Documentary", "Short"]},
    "0133093": {"plot": ["Café Matrix"], "genres": ["Sci-Fi", "Action"]},
    "1000001": {"plot": ["An evening show."], "genres": ["Comedy", "Talk-Show"]},
    "0012349": {"plot": ["A tramp and a child."], "genres": ["Comedy", "Drama"]},
    "0407887": {"plot": ["Two moles."], "genres": ["Crime", "Drama", "Thriller"]},
    "0000417": {"plot": ["To the moon!"], "genres": ["Fantasy", "Adventure", "Short"]},
}


@pytest.fixture
def source(tmp_path):
    write_mm_imdb(tmp_path / "mmimdb", SPLITS, MOVIES)
    return tmp_path / "mmimdb"


def arguments(source, output, *more):
    return ["mm_imdb", "--source", str(source), "--output", str(output), "--workers", "1", *more]


def test_raw_movies_become_products(tmp_path):
    posters = write_mm_imdb(tmp_path / "mmimdb", SPLITS, MOVIES)
    assert main(arguments(tmp_path / "mmimdb", tmp_path / "out")) == 0
    info = DatasetInfo.read(tmp_path / "out")
    (task,) = info.tasks
    assert (task.name, task.kind, len(task.labels)) == ("genres", "multi_label", 23)
    assert {name: [row["id"] for row in rows_of(tmp_path / "out", name)] for name in info.splits} == {
        "train": ["0000005", "0000008", "0133093"],
        "validation": ["0012349"],
        "test": ["0407887", "0000417"],
    }
    found = all_rows(tmp_path / "out")
    assert {id: row["image"] for id, row in found.items()} == {id: posters[id] for id in found}
    assert found["0000005"]["title"] == "The longest of the plots."
    assert found["0133093"]["title"] == "Café Matrix"
    assert found["0133093"]["genres"] == ["Action", "Sci-Fi"]
    assert found["0000417"]["genres"] == ["Adventure", "Fantasy", "Short"]
    assert info.splits["train"].label_counts["genres"] | {"Short": 2} == info.splits["train"].label_counts["genres"]


def test_counts_are_held_against_the_papers(source, tmp_path, capsys, monkeypatch):
    assert main(arguments(source, tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    assert "train 3 (the paper's: 15,510), validation 1 (the paper's: 2,599), test 2 (the paper's: 7,779)" in shown
    assert "no training product has Drama, Comedy" in shown
    monkeypatch.setattr(mm_imdb, "PAPER", {"train": 3, "validation": 1, "test": 2})
    assert main(arguments(source, tmp_path / "out")) == 0
    assert "counts: the paper's\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"genres": ["Comdy"]}, "genre 'Comdy' is not among the 23"),
        ({"genres": ["News", "Comdy"]}, "genre 'Comdy' is not among the 23"),
        ({"genres": [3]}, "genre 3 is not among the 23"),
        ({"genres": []}, "no genre"),
        ({"genres": "Drama"}, "no list of genres"),
        ({"plot": []}, "no plot"),
        ({"plot": "A string."}, "no plot"),
    ],
)
def test_a_wrong_movie_is_one_clear_line(source, tmp_path, capsys, change, expected):
    file = source / "dataset/0407887.json"
    file.write_text(json.dumps(MOVIES["0407887"] | change))
    assert main(arguments(source, tmp_path / "out")) == 2
    message = error_of(capsys)
    assert (
        f"row 1: ROW_UNUSABLE: {file}: {expected}" in message
        and "1 of 7 rows rejected, --max-rejects allows 0.1%" in message
    )
    assert not list(tmp_path.glob("out*"))
    assert main(arguments(source, tmp_path / "out", "--max-rejects", "0.2")) == 0
    assert rejects(tmp_path / "out").keys() == {(1, "0407887")}


@pytest.mark.parametrize("name", ["0000008.jpeg", "0000008.json"])
def test_a_missing_file_is_named_at_once(source, tmp_path, capsys, name):
    (source / "dataset" / name).unlink()
    assert main(arguments(source, tmp_path / "out")) == 2
    assert f"{source / 'dataset' / name}: no such" in error_of(capsys)
    assert main(arguments(source, tmp_path / "out", "--max-rejects", "0.2")) == 0
    assert rejects(tmp_path / "out").keys() == {(2, "0000008")}


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (None, "split.json: No such file or directory"),
        ("{", "split.json: not JSON"),
        ({"train": ["0000005"], "test": ["0000008"]}, "split.json: no list 'dev'; it has test, train"),
        (SPLITS | {"dev": [12349]}, "dev has the id 12349, expected text that keeps its leading zeros"),
        (SPLITS | {"dev": ["0012349", "0000005"]}, "1 ids are in two splits, such as 0000005 in train and dev"),
        (SPLITS | {"dev": ["12349"]}, "12349.json: no such"),
    ],
)
def test_wrong_splits_are_one_clear_line(source, tmp_path, capsys, splits, expected):
    file = source / "split.json"
    file.unlink()
    if splits is not None:
        file.write_text(splits if isinstance(splits, str) else json.dumps(splits))
    assert main(arguments(source, tmp_path / "out")) == 2
    assert expected in error_of(capsys)
    assert not list(tmp_path.glob("out*"))


IDS = ["0000005", "0133093", "0012349", "0407887"]
CHOSEN = [["Short"], ["Action", "Sci-Fi"], ["Drama", "Comedy"], ["Crime"]]
PLOTS = ["a man sneezes N times .", "the matrix", "a tramp , a child", "_UNK_ moles"]
BOUNDS = {"train": (0, 2), "dev": (2, 3), "test": (3, 4)}
NAMES = GENRES[::-1]


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "multimodal_imdb.hdf5"
    posters = np.stack([smooth(row, 256, 160) for row in range(4)])
    write_mm_imdb_hdf5(path, IDS, CHOSEN, NAMES, posters, PLOTS, BOUNDS)
    return path


def hdf5_arguments(path, output, *more):
    return ["mm_imdb", "--hdf5", str(path), "--output", str(output), "--workers", "1", *more]


def test_the_hdf5_file_becomes_the_same_data_set(hdf5, tmp_path):
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 0
    assert [row["id"] for row in rows_of(tmp_path / "out", "validation")] == ["0012349"]
    assert [row["id"] for row in rows_of(tmp_path / "out", "train")] == IDS[:2]
    found = all_rows(tmp_path / "out")
    for row, id in enumerate(IDS):
        assert found[id]["genres"] == [name for name in GENRES if name in CHOSEN[row]]
        assert found[id]["title"] == PLOTS[row].removeprefix("_UNK_ ")
        difference = pixels_of(found[id]["image"]).astype(int) - smooth(row, 256, 160)
        assert difference.shape == (256, 160, 3) and np.abs(difference).mean() < 2


def test_every_grey_value_comes_back_from_the_subtracted_mean():
    grey = np.repeat(np.arange(256.0)[None, None, :], 3, axis=0)
    subtracted = grey - np.array([103.939, 116.779, 123.68])[:, None, None]
    for stored, most in ((np.trunc(subtracted).astype(np.int32), 1), (subtracted.astype(np.float32), 0)):
        back = restore(stored)
        assert back.shape == (1, 256, 3)
        difference = np.abs(back[0].astype(int) - np.arange(256)[:, None])
        assert difference.max() <= most and (difference > 0).sum() <= 3
    blue = np.zeros((3, 1, 1), np.float32)
    np.testing.assert_array_equal(restore(blue), [[[124, 117, 104]]])


def edited(path, edit):
    with h5py.File(path, "r+") as file:
        edit(file)


def other(file, key, values):
    del file[key]
    file[key] = values


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda file: file.__delitem__("images"), "no dataset images"),
        (lambda file: other(file, "images", np.zeros((4, 3, 160, 256))), "images has the shape (4, 3, 160, 256)"),
        (lambda file: other(file, "imdb_ids", np.array(IDS[:3], "S7")), "the datasets differ in length"),
        (lambda file: other(file, "imdb_ids", np.array([*IDS[:3], IDS[0]], "S7")), "such as 0000005 in train and test"),
        (lambda file: file.attrs.__delitem__("split"), "no attribute split"),
        (lambda file: file.attrs.create("split", fuel_splits({"train": (0, 2)}, ["images"])), "no images for 'dev'"),
        (
            lambda file: file.attrs.create("split", fuel_splits(BOUNDS | {"test": (3, 9)}, ["images"])),
            "split 'test' does not lie within the 4 rows",
        ),
        (lambda file: file["genres"].attrs.__delitem__("target_names"), "no attribute target_names"),
        (
            lambda file: file["genres"].attrs.__setitem__("target_names", json.dumps([*NAMES[:-1], "News"])),
            "genre 'News' is not among the 23",
        ),
        (lambda file: file["genres"].__setitem__((0, 0), 2), "expected 0 or 1"),
        (lambda file: file["genres"].__setitem__(3, 0), "no genre"),
        (lambda file: file["sequences"].__setitem__(0, np.array([99], np.int32)), "word number 99 is not among"),
    ],
)
def test_an_hdf5_file_of_another_form_is_one_clear_line(hdf5, tmp_path, capsys, edit, expected):
    edited(hdf5, edit)
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 2
    assert expected in error_of(capsys)
    assert not list(tmp_path.glob("out*"))


def test_row_numbers_may_stand_in_place_of_bounds(hdf5, tmp_path):
    def refer(file):
        file["rows_of_train"] = np.array([1, 0])
        table = fuel_splits(BOUNDS, ["images"])
        table["indices"][0] = file["rows_of_train"].ref
        table["stop"][0] = 0
        file.attrs.create("split", table)

    edited(hdf5, refer)
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 0
    assert [row["id"] for row in rows_of(tmp_path / "out", "train")] == IDS[:2]


def test_a_cut_file_and_a_lacking_word_list_are_one_clear_line(hdf5, tmp_path, capsys):
    hdf5.write_bytes(hdf5.read_bytes()[:-5000])
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 2
    assert f"{hdf5}: not a whole HDF5 file (" in error_of(capsys)
    (tmp_path / "metadata.npy").unlink()
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 2
    assert "metadata.npy: no such file" in error_of(capsys)


class Evil:
    def __reduce__(self):
        return (print, ("called",))


def test_code_in_the_word_list_is_not_run(hdf5, tmp_path, capsys):
    array = np.empty((), object)
    array[()] = {"ix_to_word": Evil()}
    with (tmp_path / "metadata.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        pickle.dump(array, file)
    assert main(hdf5_arguments(hdf5, tmp_path / "out")) == 2
    shown = capsys.readouterr()
    assert "called" not in shown.out and "wants to call builtins.print" in shown.err


def test_training_reads_what_was_prepared(source, tmp_path):
    from model.clip_towers import create_clip, preprocess_config
    from model.preprocess import TitleTokenizer
    from model.tokenizer import build_tokenizer
    from train.data import ProductDataset

    assert main(arguments(source, tmp_path / "out")) == 0
    preprocess = preprocess_config(create_clip(tiny_config()))
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    dataset = ProductDataset(tmp_path / "out", "train", preprocess, tokenizer)
    batch = dataset.collate([dataset[place] for place in range(len(dataset))])
    assert batch.ids == ["0000005", "0000008", "0133093"] and not batch.problems and batch.present_B2.all()
    expected = [[float(name in MOVIES[id]["genres"]) for name in GENRES] for id in batch.ids]
    np.testing.assert_array_equal(batch.targets_BC.numpy(), expected)
