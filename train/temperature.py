"""How sharp logits are, so that scores say how sure an answer is; a number a task, from answers to validation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from model.tasks import Task, TaskSet, has_labels

# N products, C labels of all tasks, L labels of one task

STEPS = 50
MOST = 20.0  # times as sharp or blunt


def fit_temperatures(logits_NC: Tensor, targets_NC: Tensor, tasks: TaskSet) -> TaskSet:
    """The tasks with the temperature that makes the least loss of these answers (Guo et al., arXiv 1706.04599).

    To be called with answers for the validation split only. A task that no product has a label of stays as it is, and
    so does a mismatch, whose targets are made in training.

    Args:
        targets_NC: as in train.data.Batch.
    """
    columns = tasks.split_logits(logits_NC.float()), tasks.split(targets_NC)
    return TaskSet(
        task.model_copy(update={"temperature": _fitted(task, own_NC, targets_NL)}) if task.is_labelled else task
        for (task, own_NC), (_, targets_NL) in zip(*columns, strict=True)
    )


def _fitted(task: Task, logits_NC: Tensor, targets_NL: Tensor) -> float:
    labelled_N = has_labels(targets_NL)
    if not labelled_N.any():
        return task.temperature
    logits_NC, targets_NL = logits_NC[labelled_N], targets_NL[labelled_N]
    exponent, weights_L = torch.zeros((), requires_grad=True), targets_NL.new_ones(targets_NL.shape[1])
    optimizer = torch.optim.LBFGS([exponent], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        mean = task.loss(logits_NC / exponent.exp(), targets_NL, weights_L).mean()
        mean.backward()
        return mean

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    bound = math.log(MOST)
    return round(math.exp(min(max(exponent.item(), -bound), bound)), 6)
