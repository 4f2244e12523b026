"""How good the answers are, label by label."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torchmetrics.functional.classification import multiclass_confusion_matrix

from train.answers import Answers
from train.metrics import average_precision, f1_score, label_counts, ratio


def class_table(answers: Answers) -> list[dict[str, Any]]:
    """One row a label, in the task's order.

    Returns:
        rows of label, products (that have it), answered, precision, recall, f1 and average_precision;
        None where there is nothing to divide by. Where a product may have several labels, the rows also hold
        the threshold from which the label was answered.
    """
    right_L, answered_L, products_L = label_counts(answers)
    columns: dict[str, Iterable[Any]] = {
        "label": answers.task.labels,
        "products": products_L,
        "answered": answered_L,
        "precision": map(ratio, right_L, answered_L),
        "recall": map(ratio, right_L, products_L),
        "f1": map(f1_score, right_L, answered_L, products_L),
        "average_precision": map(average_precision, answers.scores_NL.T, answers.targets_NL.T),
    }
    if answers.task.several_labels:
        columns["threshold"] = answers.task.accept_from()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def confusion_matrix(answers: Answers) -> list[list[int]]:
    """Products by true label (rows) and answered label (columns), where a product has one of each."""
    assert not answers.task.several_labels, answers.task.name
    answered_N, true_N = (one_hot_NL.int().argmax(dim=1) for one_hot_NL in (answers.answered_NL, answers.targets_NL))
    return multiclass_confusion_matrix(answered_N, true_N, len(answers.task.labels)).tolist()


def write_class_tables(folder: Path, answers: Answers) -> None:
    """Write `classes-TASK.csv`, and where a product has one label `confusion-TASK.csv`; what is None stays empty."""
    task, rows = answers.task, class_table(answers)
    _write_csv(folder / f"classes-{task.name}.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    if not task.several_labels:
        lines = [[label, *row] for label, row in zip(task.labels, confusion_matrix(answers), strict=True)]
        _write_csv(folder / f"confusion-{task.name}.csv", [["true label / answer", *task.labels], *lines])


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
