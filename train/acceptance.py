"""Which answers to accept: those that keep a precision which is promised with a confidence, or cost the least.

The promise holds for the threshold that is taken, though many are looked at: by fixed-sequence testing (Learn then
Test, arXiv 2110.01052, section 4). Thresholds are a grid that is settled before any product is seen. From each of a few
starts, at which a given share of the products is accepted, they are lowered for as long as an exact binomial test (as
Clopper and Pearson's bound) rejects that more are wrong than was promised; the starts share the error that is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom
from torch import Tensor

from model.acceptance import Acceptance, Rule
from model.tasks import TaskSet
from train.answers import Answers, answers_by_task
from train.thresholds import threshold_remarks

# N products, L labels of one task, G thresholds of the grid

GRID = np.append(1 / (1 + np.exp(-np.linspace(9, -6, 301))), 0.0).astype(np.float32)  # from 0.9999 on downwards
STARTS = (0.15, 0.5)  # shares of the products: RESULTS.md has others beside them
ENOUGH = 200  # answers of a label, for a threshold of its own
MOST = 1000  # times the products at hand; more are not to be thought of
STEP = 1.05
LABELS_SHOWN = 5


def with_acceptance(logits_NC: Tensor, targets_NC: Tensor, tasks: TaskSet, rules: Rule | dict[str, Rule]) -> TaskSet:
    """The tasks that data sets have labels of, with what decides which answers are accepted.

    Args:
        logits_NC, targets_NC: of products that the network was not trained on.
        rules: of each task by its name, or one for all.
    """
    return TaskSet(
        answers.task.model_copy(update={"acceptance": fit_acceptance(answers, rule)})
        if answers.task.is_labelled and (rule := rules if isinstance(rules, Rule) else rules[answers.task.name])
        else answers.task
        for answers in answers_by_task(logits_NC, targets_NC, tasks)
    )


def fit_acceptance(answers: Answers, rule: Rule) -> Acceptance:
    """From which score on each label is accepted.

    With several labels a product counts as wrong where any of its accepted labels is: so that products, which are
    independent of each other, are what is counted.
    """
    claimed_NL, right_NL = answers.task.claimed(answers.scores_NL.numpy()), answers.targets_NL.numpy()
    products = len(right_NL)
    thresholds: list[float | None] = [None] * right_NL.shape[1]
    for labels in _groups(answers, rule):
        place = _place(*counts(claimed_NL[:, labels], right_NL[:, labels]), rule)
        for label in labels:
            thresholds[label] = None if place is None else float(GRID[place])
    hopeless = rule.promises and all(least is None for least in thresholds)
    needed = products_needed(*counts(claimed_NL, right_NL), rule) if hopeless else None
    fitted = Acceptance(rule=rule, thresholds=thresholds, products=products, needed=needed)
    accepted, right = answers._replace(task=answers.task.model_copy(update={"acceptance": fitted})).accepted()
    return fitted.model_copy(update={"accepted": accepted, "right": right})


def _groups(answers: Answers, rule: Rule) -> list[list[int]]:
    """Labels that share a threshold. How often each is answered decides, never whether rightly."""
    labels = range(answers.answered_NL.shape[1])
    often = (answers.answered_NL.sum(dim=0) >= ENOUGH).tolist() if rule.per_label else [False] * len(labels)
    rest = [label for label in labels if not often[label]]
    return [[label] for label in labels if often[label]] + ([rest] if rest else [])


def counts(claimed_NL: np.ndarray, right_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """How many products each threshold of the grid accepts, how many of those wrongly, int [G], and how many at most.

    Args:
        claimed_NL: scores of what may be accepted; -1 of what may not.
        right_NL: bool.
    """
    best_N = claimed_NL.max(axis=1, initial=-1)
    wrong_N = np.where(right_NL, -1, claimed_NL).max(axis=1, initial=-1)
    accepted_G, wrong_G = (len(of_N) - np.searchsorted(np.sort(of_N), GRID) for of_N in (best_N, wrong_N))
    return accepted_G, wrong_G, int((best_N >= 0).sum())


def _place(accepted_G: np.ndarray, wrong_G: np.ndarray, products: int, rule: Rule) -> int | None:
    """Where in the grid the threshold is that accepts the most, or costs the least; None: accept nothing."""
    if rule.promises:
        return promised(accepted_G, wrong_G, products, rule)
    assert rule.cost_wrong is not None and rule.cost_review is not None, rule
    costs_G = rule.cost_wrong * wrong_G - rule.cost_review * accepted_G  # beside that of accepting nothing
    best = int(costs_G.argmin())
    return best if costs_G[best] < 0 else None


def promised(accepted_G: np.ndarray, wrong_G: np.ndarray, products: int, rule: Rule) -> int | None:
    """The place in the grid of the lowest threshold that keeps the promise; None where none does."""
    least = starts(products, rule)
    kept_G = _p_values(accepted_G, wrong_G, rule) <= (1 - rule.confidence) / max(len(least), 1)
    lowest = -1
    for first in np.searchsorted(accepted_G, least):
        broken = np.flatnonzero(~kept_G[first:])
        end = first + broken[0] if len(broken) else len(GRID)
        lowest = max(lowest, end - 1 if end > first else -1)
    return None if lowest < 0 else int(lowest)


def starts(products: int, rule: Rule) -> list[int]:
    """How many products are accepted where the search begins, but for those that are too few for any promise."""
    least = [math.ceil(share * products) for share in STARTS]
    while least and least[0] < math.log((1 - rule.confidence) / len(least)) / math.log(rule.precision):
        least = least[1:]
    return least


def _p_values(accepted_G: np.ndarray, wrong_G: np.ndarray, rule: Rule) -> np.ndarray:
    """The chance of so few wrong ones if the precision were just the promised one; 1 where nothing is accepted."""
    chance_G: np.ndarray = binom.cdf(wrong_G, np.maximum(accepted_G, 1), 1 - rule.precision)
    return np.where(accepted_G > 0, chance_G, 1.0)


def products_needed(accepted_G: np.ndarray, wrong_G: np.ndarray, products: int, rule: Rule) -> int | None:
    """The least number of products like these that a promise could be made with; None where no number would do."""
    factor = 1.0
    while factor <= MOST and products:
        more = math.ceil(products * factor)
        then_G, wrong_then_G = (np.rint(of_G * factor).astype(int) for of_G in (accepted_G, wrong_G))
        if promised(then_G, wrong_then_G, more, rule) is not None:
            return more
        factor *= STEP
    return None if products else next(number for number in range(1, 10**6) if starts(number, rule))


def remarks(tasks: TaskSet) -> list[str]:
    """Lines about a bundle's thresholds, and a line a task: what its accepted answers keep and how many they are, or
    what is missing for a promise.
    """
    accepting = [_remark(task.name, task.labels, task.acceptance) for task in tasks if task.acceptance]
    return threshold_remarks(tasks) + accepting


def _remark(name: str, labels: Sequence[str], acceptance: Acceptance) -> str:
    rule, products, accepted = acceptance.rule, acceptance.products, acceptance.accepted
    never = [label for label, least in zip(labels, acceptance.thresholds, strict=True) if least is None]
    promise = f"{100 * rule.precision:g}%"
    if rule.promises and len(never) == len(labels):
        line = f"{name}: that {promise} of the accepted answers are right cannot be promised with {products}"
        if acceptance.needed is None:
            return f"{line} products, nor with more like these: too many of the surest answers are wrong"
        return f"{line} products, {acceptance.needed} like these at least are needed, so none is"
    share = f"decided by {products} products, of which {accepted / max(products, 1):.1%} are accepted"
    share += f", {acceptance.right / accepted:.1%} of them rightly" if accepted else ""
    if not rule.promises:
        return f"{name}: accepted where that costs less than to look, {rule.cost_wrong:g} a wrong one and" + (
            f" {rule.cost_review:g} a look; {share}"
        )
    line = (
        f"{name}: at least {promise} of the accepted answers are right (confidence {100 * rule.confidence:g}%); {share}"
    )
    if not never:
        return line
    some = ", ".join(never[:LABELS_SHOWN]) + (" and more" if len(never) > LABELS_SHOWN else "")
    return f"{line}; no promise for {some}"
