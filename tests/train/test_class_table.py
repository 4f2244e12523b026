"""Tables by label, by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from tiny import TASKS

from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from train.answers import Answers, answers_by_task
from train.class_table import class_table, confusion_matrix, write_class_tables

TAGS = MultiLabel(name="tags", labels=["a", "b"], thresholds=[0.5, 0.95])


def colors() -> Answers:
    """Answers red, red, blue, red for red, red, red, blue; the last product has no colour."""
    scores = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.3, 0.6, 0.1], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    targets = torch.eye(3)[[0, 0, 0, 1, 2]]
    targets[4] = MISSING
    return next(answers_by_task(scores.log(), targets, TaskSet(TASKS[:1])))


def tags() -> Answers:
    logits = torch.tensor([[2.0, -1.0], [1.0, 3.0], [-2.0, 0.5]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    return next(answers_by_task(logits, targets, TaskSet([TAGS])))


def test_single_label_by_hand():
    red, blue, green = class_table(colors())
    # red by score: 0.7 right, 0.6 wrong, 0.5 right, 0.3 right; blue: 0.6 wrong, then 0.3 twice, one of them right
    assert red == {
        "label": "red",
        "products": 3,
        "answered": 3,
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "average_precision": pytest.approx((1 + 2 / 3 + 3 / 4) / 3),
    }
    assert (blue["products"], blue["answered"], blue["precision"], blue["recall"], blue["f1"]) == (1, 1, 0, 0, 0)
    assert blue["average_precision"] == pytest.approx(1 / 3)
    assert (green["products"], green["answered"]) == (0, 0)
    assert {green[key] for key in ("precision", "recall", "f1", "average_precision")} == {None}


def test_multi_label_by_hand_with_thresholds():
    a, b = class_table(tags())
    assert (a["answered"], a["precision"], a["recall"], a["threshold"]) == (2, 0.5, 1.0, 0.5)
    assert (b["answered"], b["precision"], b["recall"], b["threshold"]) == (1, 1.0, 0.5, 0.95)
    assert b["f1"] == pytest.approx(2 / 3) and a["average_precision"] == b["average_precision"] == 1.0


def test_confusion_matrix_by_hand():
    assert confusion_matrix(colors()) == [[2, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_no_labelled_product():
    answers = next(answers_by_task(torch.zeros(2, 3), torch.full((2, 3), MISSING), TaskSet(TASKS[:1])))
    assert [(row["products"], row["answered"], row["f1"]) for row in class_table(answers)] == [(0, 0, None)] * 3
    assert confusion_matrix(answers) == [[0] * 3] * 3


def test_files(tmp_path: Path):
    for answers in (colors(), tags()):
        write_class_tables(tmp_path, answers)
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes-color.csv",
        "confusion-color.csv",
        "classes-tags.csv",
    }
    with (tmp_path / "classes-color.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["products"], row["f1"]) for row in rows[1:]] == [
        ("blue", "1", "0.0"),
        ("green", "0", ""),
    ]
    lines = (tmp_path / "confusion-color.csv").read_text().splitlines()
    assert lines == ["true label / answer,red,blue,green", "red,2,1,0", "blue,1,0,0", "green,0,0,0"]


def test_many_labels_are_confused_pair_by_pair(tmp_path: Path):
    """A matrix of 40,000 labels has 1.6 billion cells."""
    count, products = 40_000, 6
    task = SingleLabel(name="size", labels=[f"l{n}" for n in range(count)])
    answered, targets = (torch.zeros(products, count, dtype=torch.bool) for _ in range(2))
    for n, (true, said) in enumerate([(0, 0), (0, 0), (39_999, 1), (5, 39_999), (5, 5), (5, 39_999)]):
        targets[n, true] = answered[n, said] = True
    write_class_tables(tmp_path, Answers(task, answered.float(), answered, targets, torch.arange(products)))
    assert (tmp_path / "confusion-size.csv").read_text().split() == [
        "true", "label,answer,products", "l0,l0,2", "l5,l5,1", "l5,l39999,2", "l39999,l1,1",
    ]  # fmt: skip
    with (tmp_path / "classes-size.csv").open() as file:
        assert sum(1 for _ in file) == count + 1
