"""Metrics by hand-computed values, absent labels and ties included."""

from __future__ import annotations

import pytest
import torch
from conftest import TASKS

from model.config import Task
from train.data import MISSING
from train.metrics import format_table, task_metrics

THREE = TASKS[0]


def one_hot(labels: list[int], size: int) -> torch.Tensor:
    return torch.stack([torch.full((size,), MISSING) if i < 0 else torch.eye(size)[i] for i in labels])


def confident(answers: list[tuple[int, float]], size: int) -> torch.Tensor:
    """Logits whose softmax gives the answer this score and the others the same rest."""
    rows = torch.tensor([[(1 - score) / (size - 1)] * size for _, score in answers])
    for row, (answer, score) in zip(rows, answers, strict=True):
        row[answer] = score
    return rows.log()


def measure(answers: list[tuple[int, float]], labels: list[int], size: int = 3) -> dict:
    share = torch.full((len(labels), 1), 0.25)
    task = THREE if size == 3 else TASKS[1]
    return task_metrics(confident(answers, size), share, one_hot(labels, size), [task])[task.name]


def test_single_label_by_hand():
    # sorted by score: right right right wrong right
    answers = [(0, 0.9), (1, 0.8), (0, 0.7), (1, 0.6), (2, 0.5)]
    values = measure(answers, [0, 1, 0, 0, 2])
    assert values["products"] == 5 and values["text_share"] == pytest.approx(0.25)
    assert values["accuracy"] == values["micro_f1"] == pytest.approx(0.8)
    assert values["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 1.0) / 3)
    assert values["recall_at_90_precision"] == pytest.approx(3 / 5)
    assert values["threshold"] == pytest.approx(0.7)


def test_ties_fall_on_the_same_side_of_the_threshold():
    values = measure([(0, 0.9), (0, 0.8), (0, 0.8)], [0, 0, 1])
    assert values["recall_at_90_precision"] == pytest.approx(1 / 3) and values["threshold"] == pytest.approx(0.9)


def test_precision_out_of_reach():
    values = measure([(0, 0.9), (0, 0.8), (0, 0.7)], [1, 0, 1])
    assert values["recall_at_90_precision"] == 0 and values["threshold"] == 1.0
    assert measure([(0, 0.9), (0, 0.8)], [1, 2])["recall_at_90_precision"] == 0


def test_R11_unlabelled_products_and_absent_labels():
    values = measure([(0, 0.9), (1, 0.8), (0, 0.9)], [0, 1, -1])
    assert values["products"] == 2 and values["accuracy"] == 1.0
    assert values["macro_f1"] == 1.0  # label 2 neither occurs nor is answered
    nothing = measure([(0, 0.9)], [-1])
    assert nothing["products"] == 0 and nothing["accuracy"] is None and nothing["recall_at_90_precision"] is None
    assert "n/a" in format_table({"color": nothing})


def test_multi_label_by_hand():
    task = Task(name="tags", kind="multi_label", labels=["a", "b"])
    logits = torch.tensor([[2.0, -1.0], [1.0, 3.0], [-2.0, 0.5]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    values = task_metrics(logits, torch.ones(3, 1), targets, [task])["tags"]
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 0))
    assert values["macro_f1"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert values["recall_at_90_precision"] == pytest.approx(2 / 3)


def test_one_label_task():
    task = Task(name="new", kind="multi_label", labels=["yes"])
    values = task_metrics(torch.tensor([[2.0], [-2.0]]), torch.ones(2, 1), torch.tensor([[1.0], [0.0]]), [task])["new"]
    assert values["accuracy"] == values["micro_f1"] == values["macro_f1"] == 1.0


def test_tasks_keep_apart():
    logits = torch.cat([confident([(0, 0.9)], 3), confident([(1, 0.8)], 2)], dim=1)
    targets = torch.cat([one_hot([0], 3), one_hot([0], 2)], dim=1)
    values = task_metrics(logits, torch.tensor([[0.2, 0.6]]), targets, TASKS)
    assert (values["color"]["accuracy"], values["pattern"]["accuracy"]) == (1.0, 0.0)
    assert values["pattern"]["text_share"] == pytest.approx(0.6)
    assert len(format_table(values).splitlines()) == 3
