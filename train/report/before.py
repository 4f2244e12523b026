"""What has changed since another bundle, on the same products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.tasks import TaskSet
from train.answers import Answers, answers_by_task
from train.metrics import ratio
from train.predict import Predictions
from train.report.content import Told, cards
from train.thresholds import most_at_precision

# N products with a label of the task

RESAMPLINGS, TAIL = 500, 2.5  # percent at both ends of the interval


class Before(NamedTuple):
    """The other bundle: what to call it, its tasks with their thresholds, and its answers to the same split."""

    name: str
    tasks: TaskSet
    answers: Predictions

    def by_task(self) -> dict[str, Answers]:
        judged = answers_by_task(self.answers.logits_NC, self.answers.targets_NC, self.tasks)
        return {one.task.name: one for one in judged}


class Change(NamedTuple):
    """A figure before and after, and the interval (95 %) of the difference by drawing products again, in pairs."""

    figure: str
    before: float | None
    after: float | None
    low: float
    high: float

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def is_sure(self) -> bool:
        """Whether chance alone would rarely do it."""
        return not self.low <= 0 <= self.high


def changes(before: Answers, after: Answers, seed: int = 0) -> list[Change]:
    """Share right, recall at 90 % precision, and how much is accepted."""
    count, rng = len(after.targets_NL), np.random.default_rng(seed)
    draws = [torch.from_numpy(rng.integers(0, count, count)) for _ in range(RESAMPLINGS)]
    everything = torch.arange(count)
    found = []
    for name, figure in FIGURES.items():
        old, new = figure(before), figure(after)
        differences = [_difference(old(draw), new(draw)) for draw in draws]
        low, high = np.percentile(differences, [TAIL, 100 - TAIL])
        found.append(Change(name, old(everything), new(everything), float(low), float(high)))
    return found


def turned(before: Answers, after: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Bool [N] twice: answers that were wrong and are right now, and the other way round."""
    was_N, is_N = (_right(answers).numpy() for answers in (before, after))
    return is_N & ~was_N, was_N & ~is_N


Figure = Callable[[Answers], Callable[[Tensor], float | None]]


def _right(answers: Answers) -> Tensor:
    return (answers.answered_NL == answers.targets_NL).all(dim=1)


def _share_right(answers: Answers) -> Callable[[Tensor], float | None]:
    right_N = _right(answers).double()
    return lambda draw: right_N[draw].mean().item()


def _recall(answers: Answers) -> Callable[[Tensor], float | None]:
    """At 90 % precision, as train.metrics."""
    scores_NT, right_NT = answers.claims()
    occurring_N = answers.targets_NL.sum(dim=1)

    def of(draw: Tensor) -> float | None:
        hits, _ = most_at_precision(scores_NT[draw].flatten(), right_NT[draw].flatten())
        return ratio(hits, int(occurring_N[draw].sum()))

    return of


def _accepted(answers: Answers) -> Callable[[Tensor], float | None]:
    accepted_N = torch.from_numpy(answers.task.accepted(answers.scores_NL.numpy())).double()
    return lambda draw: accepted_N[draw].mean().item()


FIGURES: dict[str, Figure] = {"right": _share_right, "recall at 90 % precision": _recall, "accepted": _accepted}


def _difference(before: float | None, after: float | None) -> float:
    return (after or 0.0) - (before or 0.0)


def since(before: Answers | None, told: Told, most: int) -> dict[str, Any]:
    """What the template reads of one task; nothing has changed where there was nothing before."""
    if before is None:
        return {"changes": [], "better": [], "worse": []}
    better_N, worse_N = turned(before, told.answers)
    found = {"changes": changes(before, told.answers), "turned": [int(better_N.sum()), int(worse_N.sum())]}
    shown = [cards(told, np.flatnonzero(which_N)[:most]) for which_N in (better_N, worse_N)]
    return found | dict(zip(("better", "worse"), shown, strict=True))
