"""What a network answered, task by task, by the rules that serving follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from model.tasks import MISSING, Task, TaskSet

# N products, C labels of all tasks, L labels of one task


class Answers(NamedTuple):
    """One task's answers for the N products that have its label, on the CPU.

    scores_NL: float32, as the server computes them. answered_NL and targets_NL: bool.
    """

    task: Task
    scores_NL: Tensor
    answered_NL: Tensor
    targets_NL: Tensor

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
    columns = tasks.split_logits(logits_NC.float().cpu()), tasks.split(targets_NC.cpu())
    for (task, logits_NC), (_, targets_NL) in zip(*columns, strict=True):
        labelled_N = targets_NL[:, 0] != MISSING
        scores_NL = task.scores(logits_NC[labelled_N].numpy())
        answered_NL = torch.from_numpy(task.answered(scores_NL))
        yield Answers(task, torch.from_numpy(scores_NL), answered_NL, targets_NL[labelled_N] > 0)
