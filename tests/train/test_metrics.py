"""Metrics by hand-computed values, absent labels and ties included."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import TASKS
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_f1_score,
    multilabel_f1_score,
)

from model.tasks import MISSING, MultiLabel, TaskSet
from train.metrics import average_precision, calibration_error, format_table, task_metrics

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
    return task_metrics(confident(answers, size), share, one_hot(labels, size), TaskSet([task]))[task.name]


def test_single_label_by_hand():
    # sorted by score: right right right wrong right
    answers = [(0, 0.9), (1, 0.8), (0, 0.7), (1, 0.6), (2, 0.5)]
    values = measure(answers, [0, 1, 0, 0, 2])
    assert values["products"] == 5 and values["text_share"] == pytest.approx(0.25)
    assert values["accuracy"] == values["micro_f1"] == pytest.approx(0.8)
    assert values["macro_f1"] == pytest.approx((0.8 + 2 / 3 + 1.0) / 3)
    assert values["recall_at_90_precision"] == pytest.approx(3 / 5)
    assert values["threshold"] == pytest.approx(0.7)
    # red: 0.9 right, 0.7 right, 0.25 wrong, 0.2 right; blue and green: their only product comes first
    assert values["mean_average_precision"] == pytest.approx(((1 + 1 + 3 / 4) / 3 + 1 + 1) / 3)
    assert values["calibration_error"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.6 + 0.5) / 5)


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
    assert values["macro_f1"] == values["mean_average_precision"] == 1.0  # label 2 neither occurs nor is answered
    nothing = measure([(0, 0.9)], [-1])
    assert nothing.pop("products") == 0 and nothing.pop("text_share") == 0.25
    assert set(nothing) == set(values) - {"products", "text_share"} and set(nothing.values()) == {None}
    assert format_table({"color": nothing | {"products": 0, "text_share": None}}).count("n/a") == 10


def test_an_answered_label_that_never_occurs_counts_for_macro_f1():
    values = measure([(0, 0.9), (2, 0.8)], [0, 0])
    assert values["macro_f1"] == pytest.approx((2 / 3 + 0) / 2) and values["mean_average_precision"] == 1.0


# scores of a: 0.881, 0.731, 0.119; of b: 0.269, 0.953, 0.622
LOGITS = torch.tensor([[2.0, -1.0], [1.0, 3.0], [-2.0, 0.5]])
TARGETS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])


def tags(logits: torch.Tensor, targets: torch.Tensor, thresholds: tuple[float, ...] = ()) -> dict:
    labels = ["a", "b"][: targets.shape[1]]
    task = MultiLabel(name="tags", labels=labels, thresholds=list(thresholds))
    return task_metrics(logits, torch.ones(len(logits), 1), targets, TaskSet([task]))["tags"]


def test_multi_label_by_hand():
    values = tags(LOGITS, TARGETS)
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 0))
    assert values["macro_f1"] == pytest.approx((2 / 3 + 1.0) / 2)
    assert values["mean_average_precision"] == 1.0
    # all six together: 0.953 right, 0.881 right, 0.731 wrong
    assert values["recall_at_90_precision"] == pytest.approx(2 / 3)
    assert values["threshold"] == pytest.approx(0.8808, abs=1e-4)
    scores = LOGITS.sigmoid()  # each in a bin of its own
    assert values["calibration_error"] == pytest.approx((scores - TARGETS).abs().mean().item(), rel=1e-5)


def test_multi_label_answers_are_those_of_the_tasks_thresholds():
    values = tags(LOGITS, TARGETS, (0.9, 0.2))  # a is never answered, b always
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert values["macro_f1"] == pytest.approx((0 + 2 * 2 / (3 + 2)) / 2)
    assert tags(LOGITS, TARGETS, (1.0, 1.0))["micro_f1"] == 0.0
    for key in ("mean_average_precision", "recall_at_90_precision", "threshold", "calibration_error"):
        assert values[key] == tags(LOGITS, TARGETS)[key], key


def test_a_score_at_its_threshold_is_answered():
    assert tags(torch.zeros(2, 2), torch.ones(2, 2))["accuracy"] == 1.0


def test_labels_that_never_occur_have_no_average_precision_and_no_recall():
    values = tags(torch.full((3, 2), -3.0), torch.zeros(3, 2))
    assert values["accuracy"] == 1.0 and values["threshold"] == 1.0
    for key in ("micro_f1", "macro_f1", "mean_average_precision", "recall_at_90_precision"):
        assert values[key] is None, key
    one = tags(torch.tensor([[1.0, 2.0], [2.0, -2.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert one["mean_average_precision"] == 0.5  # a alone; b never occurs
    assert one["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_one_label_task():
    values = tags(torch.tensor([[2.0], [-2.0]]), torch.tensor([[1.0], [0.0]]))
    assert values["accuracy"] == values["micro_f1"] == values["macro_f1"] == values["mean_average_precision"] == 1.0
    assert values["recall_at_90_precision"] == 1.0 and values["calibration_error"] == pytest.approx(0.1192, abs=1e-4)


def test_average_precision_takes_equal_scores_together():
    scores, right = torch.tensor([0.8, 0.3, 0.8, 0.8, 0.1]), torch.tensor([True, True, False, True, False])
    assert average_precision(scores, right) == pytest.approx((2 * 2 / 3 + 3 / 4) / 3)
    assert average_precision(torch.full((5,), 0.5), right) == pytest.approx(3 / 5)
    assert average_precision(scores, torch.zeros(5).bool()) is None


@pytest.mark.parametrize("size", [1, 17, 127, 1023])
def test_average_precision_is_the_mean_precision_at_each_right_score(size: int):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(0, 40, (size,), generator=generator) / 64
    right = torch.rand(size, generator=generator) < scores
    right[0] = True
    precisions = [(right & (scores >= score)).sum() / (scores >= score).sum() for score in scores[right]]
    assert average_precision(scores, right) == pytest.approx(sum(precisions).item() / len(precisions), rel=1e-5)


def test_calibration_error_by_hand():
    # bins of 1/15: 0.95, 0.99 and 1.0 share the last, 0.08 and 0.1 the second, 0.2 opens the fourth, 0.19 is below
    scores = torch.tensor([0.95, 0.99, 1.0, 0.08, 0.1, 0.2, 0.19, 0.0])
    right = torch.tensor([True, False, True, False, True, False, True, False])
    gaps = [abs(2.94 - 2), abs(0.18 - 1), 0.2, abs(0.19 - 1), 0.0]
    assert calibration_error(scores, right) == pytest.approx(sum(gaps) / 8)
    assert calibration_error(torch.tensor([1.0, 0.0]), torch.tensor([True, False])) == 0.0


def test_a_score_of_one_shares_the_last_bin_which_torchmetrics_does_not_let_it():
    scores, right = torch.tensor([0.95, 1.0, 1.0]), torch.tensor([True, False, True])
    assert calibration_error(scores, right) == pytest.approx(abs(2.95 - 2) / 3)
    theirs = binary_calibration_error(scores, right.int(), n_bins=15).item()
    assert theirs == pytest.approx((abs(0.95 - 1) + abs(2 - 1)) / 3)


@pytest.mark.parametrize("size", [1, 17, 127, 1023])
def test_against_torchmetrics(size: int):
    """With many equal scores, none of them where two bins meet."""
    generator = torch.Generator().manual_seed(size)
    scores = (torch.randint(0, 64, (size,), generator=generator) + 0.5) / 64
    right = torch.rand(size, generator=generator) < scores
    right[0] = True
    expected = binary_calibration_error(scores, right.int(), n_bins=15).item()
    assert calibration_error(scores, right) == pytest.approx(expected, abs=1e-6)
    logits, labels = torch.randn(size, 3, generator=generator), torch.randint(0, 3, (size,), generator=generator)
    values = task_metrics(logits, torch.ones(size, 1), one_hot(labels.tolist(), 3), TaskSet([THREE]))["color"]
    expected = multiclass_f1_score(logits.argmax(dim=1), labels, 3, average="macro").item()
    assert values["macro_f1"] == pytest.approx(expected, rel=1e-5)
    targets = (torch.rand(size, 2, generator=generator) < 0.5).float()
    targets[0] = 1
    for average in ("micro", "macro"):
        expected = multilabel_f1_score(logits[:, :2].sigmoid(), targets.int(), 2, average=average).item()
        assert tags(logits[:, :2], targets)[f"{average}_f1"] == pytest.approx(expected, rel=1e-5)


def test_values_are_plain_numbers():
    for values in (measure([(0, 0.9)], [0]), measure([(0, 0.9)], [-1]), tags(LOGITS, TARGETS)):
        assert {type(value) for value in values.values()} <= {int, float, type(None)}
        json.dumps(values, allow_nan=False)


def test_tasks_keep_apart():
    logits = torch.cat([confident([(0, 0.9)], 3), confident([(1, 0.8)], 2)], dim=1)
    targets = torch.cat([one_hot([0], 3), one_hot([0], 2)], dim=1)
    values = task_metrics(logits, torch.tensor([[0.2, 0.6]]), targets, TASKS)
    assert (values["color"]["accuracy"], values["pattern"]["accuracy"]) == (1.0, 0.0)
    assert values["pattern"]["text_share"] == pytest.approx(0.6)
    assert len(format_table(values).splitlines()) == 3
