"""How good the answers are, per task, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import (
    binary_recall_at_fixed_precision,
    multiclass_f1_score,
    multilabel_exact_match,
    multilabel_f1_score,
)

from model.config import Task
from train.data import MISSING

# N products, C labels of all tasks, K tasks, L labels of one task

PRECISION = 0.9


def task_metrics(
    logits_NC: Tensor, text_share_NK: Tensor, targets_NC: Tensor, tasks: Sequence[Task]
) -> dict[str, dict[str, Any]]:
    """Metrics of each task over the products that have its label.

    Returns:
        task -> products, accuracy (multi-label: all labels right), micro_f1, macro_f1 (labels that
        neither occur nor are answered do not count), recall_at_90_precision, threshold (the score
        from which precision is 90 %; 1.0 if it never is), text_share (mean λ). Metrics are None
        where no product has the label.
    """
    sizes = [len(task.labels) for task in tasks]
    parts = zip(tasks, logits_NC.float().split(sizes, 1), targets_NC.split(sizes, 1), text_share_NK.T, strict=True)
    result: dict[str, dict[str, Any]] = {}
    for task, logits_NL, targets_NL, share_N in parts:
        labelled_N = targets_NL[:, 0] != MISSING
        measure = _single_label if task.kind == "single_label" else _multi_label
        values = dict.fromkeys(("accuracy", "micro_f1", "macro_f1", "recall_at_90_precision", "threshold"))
        if labelled_N.any():
            values |= measure(logits_NL[labelled_N], targets_NL[labelled_N].int())
        share = share_N.mean().item() if len(share_N) else None
        result[task.name] = {"products": int(labelled_N.sum()), **values, "text_share": share}
    return result


def _single_label(logits_NL: Tensor, targets_NL: Tensor) -> dict[str, float]:
    scores_N, answers_N = logits_NL.softmax(dim=1).max(dim=1)
    targets_N, labels = targets_NL.argmax(dim=1), targets_NL.shape[1]
    right_N = (answers_N == targets_N).int()
    accuracy = right_N.float().mean().item()
    recall, threshold = _recall_at_precision(scores_N, right_N)
    return {
        "accuracy": accuracy,
        "micro_f1": multiclass_f1_score(answers_N, targets_N, labels, average="micro").item(),
        "macro_f1": multiclass_f1_score(answers_N, targets_N, labels, average="macro").item(),
        # The paper's recall counts all products, torchmetrics' only those that are answered correctly.
        "recall_at_90_precision": recall * accuracy,
        "threshold": threshold,
    }


def _multi_label(logits_NL: Tensor, targets_NL: Tensor) -> dict[str, float]:
    scores_NL, labels = logits_NL.sigmoid(), targets_NL.shape[1]
    recall, threshold = _recall_at_precision(scores_NL.flatten(), targets_NL.flatten())
    if labels == 1:
        scores_NL, targets_NL, labels = scores_NL.expand(-1, 2), targets_NL.expand(-1, 2), 2
    return {
        "accuracy": multilabel_exact_match(scores_NL, targets_NL, labels).item(),
        "micro_f1": multilabel_f1_score(scores_NL, targets_NL, labels, average="micro").item(),
        "macro_f1": multilabel_f1_score(scores_NL, targets_NL, labels, average="macro").item(),
        "recall_at_90_precision": recall,
        "threshold": threshold,
    }


def _recall_at_precision(scores: Tensor, right: Tensor) -> tuple[float, float]:
    if not right.any():
        return 0.0, 1.0
    recall, threshold = binary_recall_at_fixed_precision(scores, right, min_precision=PRECISION)
    return recall.item(), threshold.item() if threshold <= 1 else 1.0  # not a number where 90 % is out of reach


def format_table(metrics: dict[str, dict[str, Any]]) -> str:
    """The metrics as a table for people, one line a task."""
    columns = ["products", "accuracy", "micro_f1", "macro_f1", "recall_at_90_precision", "text_share"]
    lines = [["task", "products", "accuracy", "micro F1", "macro F1", "R@P90", "text share λ"]]
    for name, values in metrics.items():
        lines.append([name, *("n/a" if values[c] is None else f"{values[c]:.4g}" for c in columns)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
