"""Which products a person looks at first: those of which a look probably changes most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from model.tasks import MISMATCH, NOT_APPLICABLE, TaskSet

# N products

# Of an answer that its label agrees with: how much likelier it is right than its score alone says.
AGREED = 0.2
# Where nothing was answered, or of labels that were not answered: their scores are not known.
UNKNOWN = 0.5
MOST_RARE = 3.0
# How much less a look is worth for each product before it that is answered alike. New labels teach most from 0.2 on;
# the higher it is, the later come wrong ones (RESULTS.md, "Whether a review's order saves looks").
ALIKE = 0.25


class Said(NamedTuple):
    """A model's answer to one task. `score`: of the label it is least sure of; `refused`: why it is not accepted."""

    labels: Sequence[str]
    score: float
    refused: str = ""


class Look(NamedTuple):
    """What a look at a product is for.

    Attributes:
        worth: how many of its labels it probably changes, rare ones counted more.
        task: of which most is expected; `mismatch` where title and image are in question.
        reason: `label` (it is probably wrong), `mismatch` (title and image are), `score` or `no promise` (the answer is
            not accepted), `no answer`; empty where nothing speaks for a look.
    """

    worth: float
    task: str = ""
    reason: str = ""


def look(
    given: Mapping[str, Sequence[str] | None],
    said: Mapping[str, Said],
    beliefs: Mapping[str, float],
    rarity: Mapping[str, Mapping[str, float]],
    mismatch: float = 0.0,
) -> Look:
    """What to expect of one product.

    Args:
        given: task that is asked of it -> its labels; None where there is none.
        said: task -> what a model answers.
        beliefs: task -> how likely the given label is, where an audit doubts it (train.audit).
        rarity: task -> label -> factor, as `rarity_of`.
        mismatch: how likely title and image do not belong together, where a model says that they do not.
    """
    terms = [Look(mismatch, MISMATCH, MISMATCH)] if mismatch else []
    for task, labels in given.items():
        chance, reason = _chance(labels, said.get(task), beliefs.get(task))
        factors = [rarity[task][label] for label in (*(labels or ()), *(said[task].labels if task in said else ()))]
        terms.append(Look(chance * max(factors, default=1.0), task, reason))
    first = max(terms, key=lambda term: (term.reason != "", term.worth))
    return first._replace(worth=sum(term.worth for term in terms))


def in_turns(worth_N: np.ndarray, answers: Sequence[Hashable]) -> np.ndarray:
    """The order of a queue: what is worth most first, but where many products are answered alike others come between,
    as a look at a second one teaches less.

    Args:
        worth_N: of `look`; equal ones stay in their order.
        answers: of each product, as `answered`.
    Returns:
        places, int64 [N].
    """
    before_N, seen = np.zeros(len(worth_N)), Counter[Hashable]()
    for place in np.argsort(-worth_N, kind="stable"):
        before_N[place] = seen[answers[place]]
        seen[answers[place]] += 1
    return np.argsort(-worth_N / (1 + before_N) ** ALIKE, kind="stable")


def answered(given: Mapping[str, Sequence[str] | None], said: Mapping[str, Said]) -> tuple[tuple[str, ...], ...]:
    """What is answered to all tasks together; where nothing is, what is given."""
    return tuple(tuple(said[task].labels if task in said else labels or ()) for task, labels in given.items())


def _chance(labels: Sequence[str] | None, said: Said | None, belief: float | None) -> tuple[float, str]:
    """How likely a look changes a label, and why."""
    if belief is not None:
        return 1 - belief, "label"
    if said is not None and said.refused == NOT_APPLICABLE:
        return (UNKNOWN, "label") if labels else (0.0, "")
    if said is None:
        return (UNKNOWN, "no answer") if labels is None else (0.0, "")
    if labels is None:
        return 1 - said.score, said.refused
    if set(labels) == set(said.labels):
        return AGREED * (1 - said.score), said.refused
    return (said.score if set(said.labels) - set(labels) else UNKNOWN), "label"


def rarity_of(tasks: TaskSet, counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    """Task -> label -> 1 to MOST_RARE: the root of how many times as often a label would be there, were all alike.

    Args:
        counts: task -> label -> products.
    """
    factors = {}
    for task in tasks:
        mean = sum(counts[task.name].get(label, 0) for label in task.labels) / len(task.labels)
        factors[task.name] = {
            label: min(MOST_RARE, max(1.0, (mean / max(1, counts[task.name].get(label, 0))) ** 0.5))
            for label in task.labels
        }
    return factors
