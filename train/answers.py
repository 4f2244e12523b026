"""What a network answered, task by task, by the rules that serving follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from model.tasks import NOT_ASKED, Task, TaskSet, has_labels

# N products, C labels of all tasks, L labels of one task

UNSCORED = -1.0  # score of every label where the task is told not to be asked: below all thresholds


class Answers(NamedTuple):
    """One task's answers, on the CPU, for the N products that have its label, and those that it is answered of though
    its condition is known not to hold: they have no label, so whatever is answered is wrong.

    scores_NL: float32, as the server computes them, UNSCORED where it says that the task is not applicable; nothing is
    answered there. answered_NL and targets_NL: bool. place_N: int64, where each product stands among all.
    """

    task: Task
    scores_NL: Tensor
    answered_NL: Tensor
    targets_NL: Tensor
    place_N: Tensor

    def right(self) -> Tensor:
        """Bool [N]: products answered with all of their labels and no other."""
        return (self.answered_NL == self.targets_NL).all(dim=1) & (self.scores_NL[:, 0] != UNSCORED)

    def claims(self) -> tuple[Tensor, Tensor]:
        """What each threshold decides about, and whether it is right: float32 and bool [N, T], as Task.claims."""
        scores_NT, right_NT = self.task.claims(self.scores_NL.numpy(), self.targets_NL.numpy())
        return torch.from_numpy(scores_NT), torch.from_numpy(right_NT)

    def acceptance(self) -> tuple[Tensor, Tensor]:
        """Bool [N] twice: products of which a label is accepted, and those of which none that is accepted is wrong."""
        accepted_NL = torch.from_numpy(self.task.accepted_labels(self.scores_NL.numpy()))
        accepted_N, wrong_N = accepted_NL.any(dim=1), (accepted_NL & ~self.targets_NL).any(dim=1)
        return accepted_N, accepted_N & ~wrong_N

    def accepted(self) -> tuple[int, int]:
        """How many both are."""
        accepted_N, rightly_N = self.acceptance()
        return int(accepted_N.sum()), int(rightly_N.sum())


def answers_by_task(logits_NC: Tensor, targets_NC: Tensor, tasks: TaskSet) -> Iterator[Answers]:
    """Each task's answers; `targets_NC` is as in train.data.Batch."""
    scores_NC = tasks.scores(logits_NC.float().cpu().numpy())
    applies_NK = torch.from_numpy(tasks.applies(scores_NC))
    columns = tasks.split(scores_NC), tasks.split(targets_NC.cpu()), applies_NK.T
    for (task, own_NL), (_, targets_NL), applies_N in zip(*columns, strict=True):
        judged_N = has_labels(targets_NL) | ((targets_NL[:, 0] == NOT_ASKED) & applies_N)
        applies_N1 = applies_N[judged_N, None]
        scores_NL = torch.from_numpy(own_NL[judged_N.numpy()])
        answered_NL = torch.from_numpy(task.answered(scores_NL.numpy())) & applies_N1
        scores_NL = torch.where(applies_N1, scores_NL, UNSCORED)
        yield Answers(task, scores_NL, answered_NL, targets_NL[judged_N] > 0, judged_N.nonzero()[:, 0])


class Applicability(NamedTuple):
    """How often a task with a condition is rightly told not to be applicable.

    Attributes:
        products: those of which it is known whether it is asked.
        unasked: of them, those of which it is not.
        told: of them, those of which it is told.
        rightly: of which both hold.
    """

    products: int
    unasked: int
    told: int
    rightly: int


def applicability(logits_NC: Tensor, targets_NC: Tensor, tasks: TaskSet) -> dict[str, Applicability]:
    """Of each task with a condition; it is known to be asked where it has a label, or the other task one it names."""
    applies_NK = torch.from_numpy(tasks.applies(tasks.scores(logits_NC.float().cpu().numpy())))
    targets = {task.name: targets_NL for task, targets_NL in tasks.split(targets_NC.cpu())}
    found = {}
    for task, applies_N in zip(tasks, applies_NK.T, strict=True):
        if task.only_if is None:
            continue
        other = tasks.by_name[task.only_if.task]
        named = [other.labels.index(label) for label in task.only_if.labels]
        unasked_N = targets[task.name][:, 0] == NOT_ASKED
        asked_N = has_labels(targets[task.name]) | (targets[other.name][:, named] > 0).any(dim=1)
        told_N = ~applies_N & (asked_N | unasked_N)
        counts = (asked_N | unasked_N, unasked_N, told_N, told_N & unasked_N)
        found[task.name] = Applicability(*(int(of_N.sum()) for of_N in counts))
    return found
