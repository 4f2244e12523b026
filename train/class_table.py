"""How good the answers are, label by label."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from train.answers import Answers
from train.metrics import average_precision, f1_score, label_counts, ratio

DENSE_LABELS = 1000


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


def confusions(answers: Answers) -> dict[tuple[int, int], int]:
    """(true label, answered label) -> products, of those that have one of each; only pairs that occur."""
    assert not answers.task.several_labels, answers.task.name
    both = answers.targets_NL, answers.answered_NL
    has_both_N = both[0].any(dim=1) & both[1].any(dim=1)
    true_N, answered_N = (one_hot_NL[has_both_N].int().argmax(dim=1) for one_hot_NL in both)
    return dict(sorted(Counter(zip(true_N.tolist(), answered_N.tolist(), strict=True)).items()))


def confusion_matrix(answers: Answers) -> list[list[int]]:
    """Products by true label (rows) and answered label (columns): for few labels, it has the square of their number."""
    size = len(answers.task.labels)
    matrix = [[0] * size for _ in range(size)]
    for (true, answered), count in confusions(answers).items():
        matrix[true][answered] = count
    return matrix


def write_class_tables(folder: Path, answers: Answers) -> None:
    """Write `classes-TASK.csv`, and where a product has one label `confusion-TASK.csv`; what is None stays empty.

    From DENSE_LABELS labels on the confusions are a row a pair that occurs: true label, answer, products.
    """
    task, rows = answers.task, class_table(answers)
    _write_csv(folder / f"classes-{task.name}.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
    if task.several_labels:
        return
    if len(task.labels) < DENSE_LABELS:
        head = ["true label / answer", *task.labels]
        lines = [[label, *row] for label, row in zip(task.labels, confusion_matrix(answers), strict=True)]
    else:
        head = ["true label", "answer", "products"]
        lines = [[task.labels[true], task.labels[said], count] for (true, said), count in confusions(answers).items()]
    _write_csv(folder / f"confusion-{task.name}.csv", [head, *lines])


def _write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
