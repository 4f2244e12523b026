"""Counts a network's answers to validation, for the server to hold its own against."""

from __future__ import annotations

import numpy as np
import torch

from model.reference import INAPPLICABLE, NONE, Reference, TaskReference, grouped, histogram
from model.tasks import Task, TaskSet
from train.predict import Predictions

# N products, K tasks, L labels of one task


def reference_of(answers: Predictions, tasks: TaskSet) -> Reference:
    """What the server would count of these products, if they were all that it was sent.

    Args:
        answers: to products that the server would not refuse, under their own titles; what is no number is left out.
        tasks: with the thresholds that are served.
    """
    answers = answers.of(torch.nonzero(answers.logits_NC.isfinite().all(dim=1)).flatten().tolist())
    scores_NL = tasks.scores(answers.logits_NC.numpy())
    parts = zip(tasks.split(scores_NL), answers.text_share_NK.T.numpy(), tasks.applies(scores_NL).T, strict=True)
    counted = {task.name: _counted(task, own_NL, share_N, applies_N) for (task, own_NL), share_N, applies_N in parts}
    return Reference(products=len(answers.logits_NC), tasks=counted)


def _counted(task: Task, scores_NL: np.ndarray, share_N: np.ndarray, applies_N: np.ndarray) -> TaskReference:
    scores_NL = scores_NL[applies_N]
    answered_NL = task.answered(scores_NL)
    labels = grouped(dict(zip(task.labels, answered_NL.sum(axis=0).tolist(), strict=True)))
    if task.several_labels:
        labels[NONE] = int((~answered_NL.any(axis=1)).sum())
    if task.only_if:
        labels[INAPPLICABLE] = int((~applies_N).sum())
    best_N = scores_NL.max(axis=1)
    return TaskReference(labels=labels, scores=histogram(_as_served(best_N)), text_share=histogram(_as_served(share_N)))


def _as_served(values_N: np.ndarray) -> list[float]:
    """Six decimals, as answers have them."""
    return values_N.astype(float).round(6).tolist()
