"""Wrong labels that were put into a small data set on purpose: found, listed, and taken out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_set_files import picture, rows_of

from cma_clip.command import EXIT_BAD_INPUT
from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import MISSING, Condition, MultiLabel, SingleLabel, TaskSet
from train.audit.__main__ import confused, main
from train.audit.cleaned import cleaned, write_cleaned
from train.audit.doubts import Doubt, find_doubts
from train.audit.out_of_fold import FOLDS, of, out_of_fold
from train.rivals.products import open_split, read_products

COLOR = SingleLabel(name="color", labels=["red", "blue", "green"])
TAGS = MultiLabel(name="tags", labels=["new", "sale"])
WRONG = {7, 22, 41}  # of color, in train
UNTAGGED = {5, 30}  # that should be new
SIZES = {"train": 90, "validation": 12, "test": 12}


def product(split: str, n: int, wrong: bool) -> Product:
    color = COLOR.labels[n % 3]
    tags = ["new"] if n % 2 else ["sale"]
    title = f"{color} {'fresh' if n % 2 else 'reduced'} dress"
    if wrong and n in WRONG:
        color = COLOR.labels[(n + 1) % 3]
    if wrong and n in UNTAGGED:
        tags = []
    labels = {"color": None if n == 0 else color, "tags": tags}
    return Product(f"{split}-{n}", picture(n % 3), f"=1+1 {title}" if n == 7 else title, labels, split)


def write(directory: Path) -> Path:
    rows = (product(split, n, split == "train") for split, size in SIZES.items() for n in range(size))
    write_rows(NewDataset(directory, [COLOR, TAGS], source="drawn", settings={}), rows)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("audit") / "data")


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def stored(data: Path, split: str) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(data / f"split={split}").to_pylist()}


def test_what_was_made_wrong_is_listed_and_put_right(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output, right = tmp_path / "audit", tmp_path / "right"
    assert main(["--data", str(data), "--output", str(output), "--relabel", str(right)]) == 0
    assert "color: 3 labels of 114 products are probably wrong" in capsys.readouterr().out
    colors = lines(output / "doubts-color.csv")
    assert {(line["id"], line["given"], line["likely"]) for line in colors} == {
        (f"train-{n}", COLOR.labels[(n + 1) % 3], COLOR.labels[n % 3]) for n in WRONG
    }
    assert [float(line["belief"]) for line in colors] == sorted(float(line["belief"]) for line in colors)
    # A title is no formula to whoever opens the list.
    assert next(line for line in colors if line["id"] == "train-7")["title"].startswith("'=1+1")
    tags = lines(output / "doubts-tags.csv")
    found = {(line["id"], line["given"], line["likely"]) for line in tags}
    assert found and found <= {("train-5", "", "new"), ("train-30", "", "sale")}
    assert sum(int(line["products"]) for line in lines(output / "confused-color.csv")) == 3
    before, after = stored(data, "train"), stored(right, "train")
    assert {id for id in before if before[id]["color"] != after[id]["color"]} == {f"train-{n}" for n in WRONG}
    assert all(after[f"train-{n}"]["color"] == COLOR.labels[n % 3] for n in WRONG)
    for split in ("validation", "test"):
        assert stored(data, split) == stored(right, split)
    assert [row["image"] for row in before.values()] == [row["image"] for row in after.values()]
    info = DatasetInfo.read(right)
    assert info.settings["made_of"] == DatasetInfo.read(data).hash and info.settings["audit"] == "relabel"


def test_dropped_labels_are_unknown_and_a_second_run_changes_nothing(data: Path, tmp_path: Path):
    command = ["--data", str(data), "--output", str(tmp_path / "audit"), "--drop", str(tmp_path / "less")]
    assert main(command) == 0
    once = (tmp_path / "less/dataset.json").read_bytes()
    after = stored(tmp_path / "less", "train")
    assert {id for id, row in after.items() if row["color"] is None} == {"train-0", *(f"train-{n}" for n in WRONG)}
    assert main(command) == 0
    assert (tmp_path / "less/dataset.json").read_bytes() == once


def test_no_label_of_validation_or_test_decides_about_train(data: Path):
    tasks = DatasetInfo.read(data).tasks
    train, test = (read_products(open_split(data, split), True) for split in ("train", "test"))
    other = test._replace(targets_NC=np.roll(test.targets_NC, 1, axis=0))
    ours, theirs = out_of_fold(tasks, train, [test]), out_of_fold(tasks, train, [other])
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(ours[0], out_of_fold(tasks, train)[0])


def test_nobody_is_judged_by_what_has_seen_its_label(data: Path):
    """Whatever colour one product has, what is said of it stays, as long as the settings do."""
    tasks = DatasetInfo.read(data).tasks
    train = read_products(open_split(data, "train"), True)
    first = np.array_split(np.random.default_rng(0).permutation(len(train.titles)), FOLDS)[0]
    place = next(place for place in range(1, 90) if place not in first)
    changed = train.targets_NC.copy()
    changed[place, :3] = np.roll(changed[place, :3], 1)
    (before,), (after,) = out_of_fold(tasks, train), out_of_fold(tasks, train._replace(targets_NC=changed))
    np.testing.assert_array_equal(before[place], after[place])
    assert np.abs(before - after)[:, :3].max() > 1e-4


def test_doubts_by_hand():
    color = np.array([[0.9, 0.05, 0.05]] * 20 + [[0.05, 0.9, 0.05]] * 20 + [[0.05, 0.05, 0.9]] * 20, np.float32)
    targets = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    targets[3] = [0, 1, 0]
    targets[25] = MISSING
    assert find_doubts(COLOR, color, targets) == [Doubt(3, "blue", "red", pytest.approx(0.05, abs=1e-6))]
    tags = np.array([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 20, np.float32)
    has = (tags > 0.5).astype(np.float32)
    has[4] = [1, 1]
    has[30] = [0, 0]
    found = find_doubts(TAGS, tags, has)
    assert {(doubt.product, doubt.given, doubt.likely) for doubt in found} == {(4, "sale", None), (30, None, "sale")}
    assert find_doubts(COLOR, color, np.tile([1.0, 0, 0], (60, 1))) == []
    assert confused([*found, found[0]])[0][2] == 2


@pytest.mark.parametrize(
    ("doubt", "how", "after"),
    [
        (Doubt(0, "new", None, 0.1), "relabel", ["sale"]),
        (Doubt(0, "new", None, 0.1), "drop", ["sale"]),
        (Doubt(0, None, "old", 0.1), "relabel", ["new", "sale", "old"]),
        (Doubt(0, None, "old", 0.1), "drop", ["new", "sale"]),
    ],
)
def test_one_of_several_labels(doubt: Doubt, how: str, after: list[str]):
    assert cleaned(TAGS, ["new", "sale"], doubt, how) == after


def test_a_label_that_nobody_asks_for_any_more_goes_with_the_one_that_asked(tmp_path: Path):
    size = SingleLabel(name="size", labels=["small", "large"], only_if=Condition(task="color", labels=["red"]))
    rows = [
        Product(f"p{n}", picture(n), "dress", {"color": color, "size": label}, split)
        for n, (color, label, split) in enumerate(
            [("red", "small", "train"), ("red", "large", "train"), ("red", "large", "test")]
        )
    ]
    write_rows(NewDataset(tmp_path / "data", [COLOR, size], source="drawn", settings={}), rows)
    splits = {name: open_split(tmp_path / "data", name) for name in ("train", "test")}
    doubts = {"color": [Doubt(1, "red", "blue", 0.1)], "size": []}
    write_cleaned(tmp_path / "new", tmp_path / "data", splits, doubts, "relabel")
    train, test = (rows_of(tmp_path / "new", split) for split in ("train", "test"))
    assert [(row["color"], row["size"]) for row in train] == [("red", "small"), ("blue", None)]
    assert test[0]["size"] == "large"
    assert DatasetInfo.read(tmp_path / "new").tasks.by_name["size"].only_if == size.only_if


def test_titles_alone_or_images_alone_are_read(data: Path):
    tasks = TaskSet([COLOR, TAGS])
    train = read_products(open_split(data, "train"), True)
    for absent in (0, 1):
        present = train.present_N2.copy()
        present[:, absent] = False
        some = train._replace(present_N2=present)
        (scores,) = out_of_fold(tasks, some)
        right = scores[1:, :3].argmax(axis=1) == np.arange(1, 90) % 3
        assert right.mean() > 0.9


def test_what_is_refused_in_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/letter.txt").write_text("mine")
    assert main(["--data", str(data), "--output", str(tmp_path / "taken")]) == EXIT_BAD_INPUT
    assert "holds something else than an audit" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["letter.txt"]
    assert main(["--data", str(tmp_path / "none"), "--output", str(tmp_path / "new")]) == EXIT_BAD_INPUT
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "new").exists()
    train = read_products(open_split(data, "train"), True)
    with pytest.raises(ValueError, match="4 products: 5 are needed"):
        out_of_fold(TaskSet([COLOR, TAGS]), of(train, range(4)))
    for taken in (tmp_path / "taken", tmp_path / "taken/letter.txt", data):
        assert main(["--data", str(data), "--output", str(tmp_path / "a"), "--relabel", str(taken)]) == EXIT_BAD_INPUT
        assert f"{taken}: holds something else than {data} after an audit" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert json.loads((data / "dataset.json").read_text())["source"] == "drawn"
