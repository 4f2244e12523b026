"""What a network answered, task by task, by the rules that serving follows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Task
from model.decode import probabilities
from train.data import MISSING

# N products, C labels of all tasks, L labels of one task


class Answers(NamedTuple):
    """One task's answers for the N products that have its label.

    scores_NL: float32, as the server computes them. targets_NL: bool. answered_NL: bool; the best label
    of a single-label task, and of a multi-label one each label whose score reaches its threshold
    (Task.accept_from).
    """

    task: Task
    scores_NL: Tensor
    answered_NL: Tensor
    targets_NL: Tensor


def answers_by_task(logits_NC: Tensor, targets_NC: Tensor, tasks: Sequence[Task]) -> Iterator[Answers]:
    """Each task's answers, on the CPU; `targets_NC` is as in train.data.Batch."""
    sizes = [len(task.labels) for task in tasks]
    scores_NC = torch.from_numpy(probabilities(logits_NC.float().cpu().numpy(), tasks))
    parts = zip(tasks, scores_NC.split(sizes, dim=1), targets_NC.cpu().split(sizes, dim=1), strict=True)
    for task, scores_NL, targets_NL in parts:
        labelled_N = targets_NL[:, 0] != MISSING
        scores_NL, targets_NL = scores_NL[labelled_N], targets_NL[labelled_N] > 0
        yield Answers(task, scores_NL, _answered(task, scores_NL), targets_NL)


def _answered(task: Task, scores_NL: Tensor) -> Tensor:
    if task.kind == "single_label":
        return F.one_hot(scores_NL.argmax(dim=1), len(task.labels)).bool()
    return scores_NL >= torch.tensor(task.accept_from())
