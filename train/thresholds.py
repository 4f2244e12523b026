"""From which score on an answer counts: what a threshold accepts, and which threshold to take."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from model.tasks import TaskSet
from train.answers import UNSCORED, Answers, answers_by_task

# N scores, UNSCORED ones among them that no threshold may reach; T thresholds, L labels of one task

PRECISION = 0.9
FALSE_ALARMS = 0.01
DEFAULT = 0.5


def counts_from(scores_N: Tensor, right_N: Tensor, thresholds_T: Tensor) -> tuple[Tensor, Tensor]:
    """How many scores reach each threshold, and how many of those are right, float64 [T]."""
    sorted_N, order_N = scores_N.sort()
    below_T = torch.searchsorted(sorted_N, thresholds_T)
    right_below = F.pad(right_N[order_N].long().cumsum(dim=0), (1, 0))
    accepted_T, hits_T = len(scores_N) - below_T, right_N.sum() - right_below[below_T]
    return accepted_T.double(), hits_T.double()


def most_at_precision(scores_N: Tensor, right_N: Tensor) -> tuple[int, float]:
    """The most right answers that a threshold with a precision of 90 % accepts, and that threshold.

    Equal scores are accepted together. Of thresholds that accept as many right answers, the highest.
    Where 90 % is out of reach: 0 and 1.0.
    """
    thresholds_T = scores_N[scores_N != UNSCORED].unique().flip(0)
    accepted_T, hits_T = counts_from(scores_N, right_N, thresholds_T)
    hits_T = hits_T.where(hits_T / accepted_T >= PRECISION, 0.0)
    if not hits_T.any():
        return 0, 1.0
    best = hits_T.argmax()
    return int(hits_T[best]), thresholds_T[best].item()


def best_f1_threshold(scores_N: Tensor, right_N: Tensor) -> float:
    """The score from which on a label is to be answered for the highest F1.

    0.5 stays where no score does better, also where nothing is right. Of scores that do equally well it is
    the one nearest 0.5, then the higher one.
    """
    if not right_N.any():
        return DEFAULT
    scored = scores_N[scores_N != UNSCORED]
    candidates_T = torch.cat([scored, torch.tensor([DEFAULT])]).unique().flip(0)
    accepted_T, hits_T = counts_from(scores_N, right_N, candidates_T)
    f1_T = 2 * hits_T / (accepted_T + right_N.sum())
    best = candidates_T[f1_T == f1_T.max()]
    return best[(best - DEFAULT).abs().argmin()].item()


def few_false_alarms(scores_N: Tensor, right_N: Tensor) -> float:
    """The lowest score that at most 1 % of those that are not right reach; 0.5 where all are right."""
    wrong_N = scores_N[~right_N].sort(descending=True).values
    if not len(wrong_N):
        return DEFAULT
    allowed = int(FALSE_ALARMS * len(wrong_N))
    # Just above the first that must not reach it.
    return min(1.0, torch.nextafter(wrong_N[allowed], torch.tensor(2.0)).item())


CRITERIA: dict[str, Callable[[Tensor, Tensor], float]] = {
    "precision": lambda scores_N, right_N: most_at_precision(scores_N, right_N)[1],
    "f1": best_f1_threshold,
    "few_false_alarms": few_false_alarms,
}


def fit_thresholds(logits_NC: Tensor, targets_NC: Tensor, tasks: TaskSet) -> TaskSet:
    """The tasks with thresholds for a bundle; to be called with answers for the validation split only.

    Each threshold is fitted to what it decides about (Task.claims) by the kind's criterion. A task that no product
    has a label of stays as it is. Which products a task is asked of may hang on another one's thresholds, which are
    fitted before: once more for each condition in a chain.
    """
    for _ in range(1 + tasks.longest_chain):
        tasks = TaskSet(
            answers.task.model_copy(update={"thresholds": _fitted(answers)})
            if len(answers.targets_NL)
            else answers.task
            for answers in answers_by_task(logits_NC, targets_NC, tasks)
        )
    return tasks


def threshold_remarks(tasks: TaskSet) -> list[str]:
    """A line for each task of which no threshold was fitted, or one that accepts nothing: no score says less."""
    lines = []
    for task in tasks:
        if task.fitted_for == "precision" and task.acceptance:
            continue  # its thresholds decide nothing
        default = task.default_thresholds[0]
        if not task.thresholds:
            what = "every answer is accepted (threshold 0)" if default == 0 else f"its thresholds stay {default:g}"
            lines.append(f"{task.name}: no validation product has its label, so {what}")
        elif task.fitted_for == "precision" and task.thresholds == [1.0]:
            lines.append(
                f"{task.name}: no validation score reaches {PRECISION:.0%} precision, so none below 1.0 is accepted"
            )
    return lines


def _fitted(answers: Answers) -> list[float]:
    fit = CRITERIA[answers.task.fitted_for]
    return [fit(*claim) for claim in zip(*(array_NT.T for array_NT in answers.claims()), strict=True)]
