"""What has changed since another bundle, on the same products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.answers import Answers
from train.metrics import calibration_error, ratio
from train.report.content import Told
from train.thresholds import most_at_precision

# N products with a label of the task

RESAMPLINGS, TAIL = 500, 2.5  # percent at both ends of the interval


class Change(NamedTuple):
    """A figure before and after, and the interval (95 %) of the difference by drawing products again, in pairs.

    Attributes:
        better: 1 where more of it is better, else -1.
    """

    figure: str
    before: float | None
    after: float | None
    low: float
    high: float
    better: int = 1

    @property
    def difference(self) -> float | None:
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def is_sure(self) -> bool:
        """Whether chance alone would rarely do it."""
        return not self.low <= 0 <= self.high

    def is_worse(self, limit: float = 0.0) -> bool:
        """Surely so, and by more than `limit`."""
        return self.is_sure and self.better * (self.difference or 0.0) < -limit


class Turned(NamedTuple):
    """Products whose answer changed, by their places among all: `better` is right now, `worse` was right, `other` is
    wrong in another way.

    Attributes:
        products: that either answer is judged by.
    """

    products: int
    better: np.ndarray
    worse: np.ndarray
    other: np.ndarray


class Before(NamedTuple):
    """The other bundle, held against this one.

    Attributes:
        name: what to call it.
        changed: task -> what has changed since.
        turned: task -> of which products the answer has.
        speed: how fast both are, for people; empty where nobody measured.
    """

    name: str
    changed: dict[str, list[Change]]
    turned: dict[str, Turned]
    speed: str = ""


def hold_against(name: str, before: Sequence[Answers], after: Sequence[Answers]) -> Before:
    """What has changed in each labelled task that both have since another bundle answered the same products."""
    earlier = {one.task.name: one for one in before}
    now = [one for one in after if one.task.is_labelled and len(one.targets_NL) and one.task.name in earlier]
    pairs = {one.task.name: (earlier[one.task.name], one) for one in now}
    changed = {task: changes(*pair) for task, pair in pairs.items()}
    return Before(name, changed, {task: turned(*pair) for task, pair in pairs.items()})


def changes(before: Answers, after: Answers, seed: int = 0) -> list[Change]:
    """Each of FIGURES; of products that only one of the two is judged by, only its own figure is told."""
    rows, rng = rows_of(before, after), np.random.default_rng(seed)
    count, found = len(rows[0]), []
    draws = [torch.from_numpy(rng.integers(0, count, count)) for _ in range(RESAMPLINGS)]
    everything = torch.arange(count)
    for name, (figure, better) in FIGURES.items():
        old, new = (_among(row_M, figure(answers)) for row_M, answers in zip(rows, (before, after), strict=True))
        pairs = [(old(draw), new(draw)) for draw in draws]
        differences = [after - before for before, after in pairs if before is not None and after is not None]
        low, high = np.percentile(differences, [TAIL, 100 - TAIL]) if differences else (0.0, 0.0)
        found.append(Change(name, old(everything), new(everything), float(low), float(high), better))
    return found


def turned(before: Answers, after: Answers) -> Turned:
    """Of a product that one of the two is not judged by, it rightly tells that the task is not applicable."""
    rows = rows_of(before, after)
    was_M, is_M = (_spread(answers.right(), row_M, True) for answers, row_M in zip((before, after), rows, strict=True))
    old_ML, new_ML = (
        _spread(each.answered_NL, row_M, False) for each, row_M in zip((before, after), rows, strict=True)
    )
    changed_M = (old_ML != new_ML).any(dim=1)
    kinds = is_M & ~was_M, was_M & ~is_M, changed_M & ~was_M & ~is_M
    places_M = places_of(before, after)
    return Turned(len(places_M), *(places_M[of_M].numpy() for of_M in kinds))


def places_of(before: Answers, after: Answers) -> Tensor:
    """The M products that either of the two is judged by, in their order."""
    return torch.cat([before.place_N, after.place_N]).unique()


def rows_of(before: Answers, after: Answers) -> tuple[Tensor, Tensor]:
    """Where each of these products stands in both, int64 [M]; -1 where it does not."""
    places_M = places_of(before, after)
    rows = torch.full((2, len(places_M)), -1)
    for row_M, answers in zip(rows, (before, after), strict=True):
        row_M[torch.searchsorted(places_M, answers.place_N)] = torch.arange(len(answers.place_N))
    return rows[0], rows[1]


def _spread(of_N: Tensor, row_M: Tensor, otherwise: bool) -> Tensor:
    """What holds of the N products, of each of the M; `otherwise` of those that are none of them."""
    spread = torch.full((len(row_M), *of_N.shape[1:]), otherwise)
    spread[row_M >= 0] = of_N[row_M[row_M >= 0]]
    return spread


def _among(row_M: Tensor, of: Draw) -> Draw:
    """A figure of some of the M products, by those of them that are there; None of nothing."""

    def figure(draw: Tensor) -> float | None:
        rows = row_M[draw]
        rows = rows[rows >= 0]
        return of(rows) if len(rows) else None

    return figure


Draw = Callable[[Tensor], float | None]  # places of products -> the figure of these
Figure = Callable[[Answers], Draw]


def _share_right(answers: Answers) -> Draw:
    right_N = answers.right().double()
    return lambda draw: right_N[draw].mean().item()


def _macro_f1(answers: Answers) -> Draw:
    """As train.metrics: labels that neither occur nor are answered do not count."""
    answered_NL, targets_NL = answers.answered_NL.double(), answers.targets_NL.double()
    right_NL = answered_NL * targets_NL

    def of(draw: Tensor) -> float:
        counts_N = torch.bincount(draw, minlength=len(targets_NL)).double()
        right_L, answered_L, occurring_L = (counts_N @ each_NL for each_NL in (right_NL, answered_NL, targets_NL))
        some_L = answered_L + occurring_L > 0
        return (2 * right_L / (answered_L + occurring_L))[some_L].mean().item()

    return of


def _recall(answers: Answers) -> Draw:
    """At 90 % precision, as train.metrics."""
    scores_NT, right_NT = answers.claims()
    occurring_N = answers.targets_NL.sum(dim=1)

    def of(draw: Tensor) -> float | None:
        hits, _ = most_at_precision(scores_NT[draw].flatten(), right_NT[draw].flatten())
        return ratio(hits, int(occurring_N[draw].sum()))

    return of


def _calibration_error(answers: Answers) -> Draw:
    scores_NT, right_NT = answers.claims()
    return lambda draw: calibration_error(scores_NT[draw].flatten(), right_NT[draw].flatten())


def _accepted(answers: Answers) -> Draw:
    accepted_N = answers.acceptance()[0].double()
    return lambda draw: accepted_N[draw].mean().item()


def _rightly(answers: Answers) -> Draw:
    """Of the accepted, those of which no accepted label is wrong."""
    accepted_N, rightly_N = answers.acceptance()
    return lambda draw: ratio(int(rightly_N[draw].sum()), int(accepted_N[draw].sum()))


# Name -> how it is counted, and whether more of it is better.
FIGURES: dict[str, tuple[Figure, int]] = {
    "right": (_share_right, 1),
    "macro F1": (_macro_f1, 1),
    "recall at 90 % precision": (_recall, 1),
    "calibration error": (_calibration_error, -1),
    "accepted": (_accepted, 1),
    "right of the accepted": (_rightly, 1),
}


def since(before: Before | None, told: Told, most: int) -> dict[str, Any]:
    """What the template reads of one task; nothing has changed where there was nothing before."""
    if before is None:
        return {"changes": [], "turned": {}, "better": [], "worse": [], "other": []}
    name = told.answers.task.name
    which = before.turned[name]
    places = {kind: getattr(which, kind).tolist() for kind in ("better", "worse", "other")}
    shown = {kind: of_kind[:most] for kind, of_kind in places.items()}
    return {"changes": before.changed[name], "turned": {kind: len(places[kind]) for kind in places}} | shown
