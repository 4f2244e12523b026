"""Labels that are probably wrong: confident learning (Northcutt et al., arXiv 1911.00068) by cleanlab."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cleanlab.filter import find_label_issues

from model.tasks import Task, has_labels

# N products, L labels of one task

# As many labels as confident learning counts wrong ones, those that are least believed.
FILTER = "low_self_confidence"


class Doubt(NamedTuple):
    """A label that is probably wrong.

    Attributes:
        product: its place among those judged.
        given, likely: labels; of a task with several, None stands for not having the other one.
        belief: how likely the given one is, 0 to 1, by a model that did not see it.
    """

    product: int
    given: str | None
    likely: str | None
    belief: float


def find_doubts(task: Task, scores_NL: np.ndarray, targets_NL: np.ndarray) -> list[Doubt]:
    """The labels of a task that are probably wrong, the least believed first.

    Args:
        scores_NL: 0..1, out of fold.
        targets_NL: as in train.data.Batch; products without a label of the task are left alone.
    """
    labelled = np.flatnonzero(has_labels(targets_NL))
    scores_NL, has_NL = scores_NL[labelled].astype(np.float64), targets_NL[labelled] > 0
    find = _several if task.several_labels else _single
    doubts = [doubt._replace(product=int(labelled[doubt.product])) for doubt in find(task, scores_NL, has_NL)]
    return sorted(doubts, key=lambda doubt: doubt.belief)


def _single(task: Task, scores_NL: np.ndarray, has_NL: np.ndarray) -> list[Doubt]:
    given_N, likely_N = has_NL.argmax(axis=1), scores_NL.argmax(axis=1)
    return [
        Doubt(place, task.labels[given_N[place]], task.labels[likely_N[place]], scores_NL[place, given_N[place]])
        for place in _issues(given_N, scores_NL)
        if given_N[place] != likely_N[place]
    ]


def _several(task: Task, scores_NL: np.ndarray, has_NL: np.ndarray) -> list[Doubt]:
    """Each label by itself: has it, or has it not."""
    doubts = []
    for label, has_N, score_N in zip(task.labels, has_NL.T, scores_NL.T, strict=True):
        for place in _issues(has_N.astype(int), np.stack([1 - score_N, score_N], axis=1)):
            has, score = has_N[place], score_N[place]
            if has != (score >= 0.5):
                given, likely = (label, None) if has else (None, label)
                doubts.append(Doubt(place, given, likely, score if has else 1 - score))
    return doubts


def _issues(given_N: np.ndarray, scores_NL: np.ndarray) -> list[int]:
    """Places of labels that are probably wrong; none where all are of one kind."""
    if len(np.unique(given_N)) < 2:
        return []
    share_N1 = scores_NL.sum(axis=1, keepdims=True)
    return np.flatnonzero(find_label_issues(given_N, scores_NL / share_N1, filter_by=FILTER, n_jobs=1)).tolist()
