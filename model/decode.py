"""From logits to an answer: scores, labels, and what a caller reads. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from model.config import Task

# B batch, C classes of all tasks together, K tasks

TOP_K = 3
MODALITY = {(True, True): "title_and_image", (True, False): "title_only", (False, True): "image_only"}


def split_by_task(values_BC: np.ndarray, tasks: Sequence[Task]) -> Iterator[tuple[Task, np.ndarray]]:
    """Each task with its own columns, [B, labels of the task]."""
    start = 0
    for task in tasks:
        yield task, values_BC[:, start : start + len(task.labels)]
        start += len(task.labels)


def probabilities(logits_BC: np.ndarray, tasks: Sequence[Task]) -> np.ndarray:
    """Scores in 0..1, float32 [B, C]: softmax within a single-label task, sigmoid in a multi-label one."""
    return np.concatenate([_scores(logits, task) for task, logits in split_by_task(logits_BC, tasks)], axis=1)


def _scores(logits: np.ndarray, task: Task) -> np.ndarray:
    logits = logits.astype(np.float32)
    if task.kind == "multi_label":
        return 0.5 * (1 + np.tanh(0.5 * logits))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def predictions(
    scores_BC: np.ndarray, text_share_BK: np.ndarray, present_B2: np.ndarray, tasks: Sequence[Task]
) -> list[dict[str, dict[str, Any]]]:
    """The answer of each product, ready for JSON: task name -> label(s), score(s) and text share.

    Args:
        scores_BC: from `probabilities`.
        text_share_BK: λ per task.
        present_B2: whether there was a title, an image.
        tasks: in the bundle's order.
    """
    answers: list[dict[str, dict[str, Any]]] = [{} for _ in scores_BC]
    for index, (task, scores) in enumerate(split_by_task(scores_BC, tasks)):
        for answer, row, share, present in zip(answers, scores, text_share_BK[:, index], present_B2, strict=True):
            modality = MODALITY[bool(present[0]), bool(present[1])]
            answer[task.name] = _answer(task, row) | {"text_share": _number(share), "modality": modality}
    return answers


def _answer(task: Task, scores: np.ndarray) -> dict[str, Any]:
    best = np.argsort(-scores, kind="stable")[:TOP_K]
    top = [[task.labels[i], _number(scores[i])] for i in best]
    thresholds = task.accept_from()
    if task.kind == "single_label":
        label, score = top[0]
        return {"label": label, "score": score, "accepted": bool(scores[best[0]] >= thresholds[0]), "top": top}
    chosen = [i for i in np.argsort(-scores, kind="stable") if scores[i] >= thresholds[i]]
    return {
        "labels": [task.labels[i] for i in chosen],
        "scores": [_number(scores[i]) for i in chosen],
        "accepted": bool(chosen),
        "top": top,
    }


def _number(value: np.floating) -> float:
    """Six decimals: what float32 can carry, and a short JSON."""
    return round(float(value), 6)
