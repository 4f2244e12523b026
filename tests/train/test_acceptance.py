"""What is promised of accepted answers, against a test written anew, and how often it holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from model.acceptance import Acceptance, Rule
from model.tasks import MISSING, Mismatch, MultiLabel, SingleLabel, TaskSet
from train.acceptance import ENOUGH, GRID, STARTS, fit_acceptance, remarks, starts, with_acceptance
from train.answers import Answers, answers_by_task

COLOR = SingleLabel(name="color", labels=["red", "blue"])
TAGS = MultiLabel(name="tags", labels=["a", "b", "c"], thresholds=[0.5, 0.5, 0.5])
RULE = Rule()


def of_color(scores: np.ndarray, right: np.ndarray) -> Answers:
    """Red is answered, with these scores above 0.5, and is right or blue would have been."""
    scores_NL = torch.tensor(np.stack([scores, 1 - scores], axis=1), dtype=torch.float32)
    targets_NL = torch.tensor(np.stack([right, ~right], axis=1))
    return Answers(
        COLOR, scores_NL, torch.from_numpy(COLOR.answered(scores_NL.numpy())), targets_NL, torch.arange(len(targets_NL))
    )


def of_tags(scores_NL: list[list[float]], targets_NL: list[list[int]]) -> Answers:
    scores = torch.tensor(scores_NL)
    answered_NL, targets = torch.from_numpy(TAGS.answered(scores.numpy())), torch.tensor(targets_NL).bool()
    return Answers(TAGS, scores, answered_NL, targets, torch.arange(len(targets)))


def drawn(products: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores from 0.5 to 1 that are just the chance of being right."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.5, 1, products).astype(np.float32)
    return scores, rng.uniform(size=products) < scores


def by_definition(scores: np.ndarray, right: np.ndarray, rule: Rule) -> float | None:
    """The lowest threshold that is promised, one test after another."""
    begin = [math.ceil(share * len(scores)) for share in STARTS]
    while begin and rule.precision ** begin[0] > (1 - rule.confidence) / len(begin):
        begin.pop(0)
    best = None
    for first in begin:
        for threshold in GRID:
            accepted = scores >= threshold
            if accepted.sum() < first:
                continue
            test = binomtest(int(right[accepted].sum()), int(accepted.sum()), rule.precision, alternative="greater")
            if test.pvalue > (1 - rule.confidence) / len(begin):
                break
            best = threshold if best is None else min(best, threshold)
    return None if best is None else float(best)


@pytest.mark.parametrize("products", [1, 17, 127, 1023])
@pytest.mark.parametrize("rule", [RULE, Rule(precision=0.8, confidence=0.5), Rule(precision=0.7, confidence=0.99)])
def test_the_promise_is_that_of_single_tests_one_after_another(products: int, rule: Rule):
    scores, right = drawn(products, seed=3)
    expected = by_definition(scores, right, rule)
    assert fit_acceptance(of_color(scores, right), rule).thresholds == [expected, expected]
    assert (expected is None) == (
        products == 1 or (products == 17 and rule.precision != 0.8) or (products == 127 and rule == RULE)
    )


def test_it_is_kept_as_often_as_was_said_and_the_point_estimate_is_not():
    """Where scores are the chance of being right, uniformly from 0.5 to 1, those from t on are right in (1 + t) / 2."""
    missed = point_missed = 0
    for seed in range(300):
        scores, right = drawn(400, seed)
        (threshold, _) = fit_acceptance(of_color(scores, right), RULE).thresholds
        missed += threshold is not None and (1 + threshold) / 2 < RULE.precision
        order = np.argsort(-scores)
        enough = np.flatnonzero(np.cumsum(right[order]) >= RULE.precision * np.arange(1, 401))
        point_missed += len(enough) > 0 and (1 + scores[order][enough[-1]]) / 2 < RULE.precision
    # 5 % of 300 are 15, and 24 would be a chance of 2 %
    assert missed <= 23 and point_missed > 90


def test_products_are_what_counts_where_one_has_several_labels():
    sure, both, unsure = [0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.6, 0.1, 0.1]
    answers = of_tags([sure] * 60 + [both] * 40 + [unsure] * 50, [[1, 0, 0]] * 60 + [[1, 0, 1]] * 2 + [[1, 1, 1]] * 88)
    acceptance = fit_acceptance(answers, RULE)
    # Of the 100 from 0.9 on two hold a wrong label beside a right one, of all 150 as well.
    assert (acceptance.products, acceptance.accepted, acceptance.right) == (150, 150, 148)
    assert acceptance.thresholds == [acceptance.thresholds[0]] * 3 and acceptance.thresholds[0] < 0.6
    # What nobody answers is claimed all the same, and wrong.
    low = of_tags([[0.9, 0.1, 0.1]] * 100, [[1, 0, 0]] * 100)
    assert 0.1 < fit_acceptance(low, RULE).thresholds[0] < 0.9


def test_too_few_products_are_told_how_many_would_do():
    assert starts(57, RULE) == [29] and starts(56, RULE) == []
    few = fit_acceptance(of_color(np.full(20, 0.9), np.ones(20, bool)), RULE)
    assert (few.thresholds, few.accepted, few.right) == ([None, None], 0, 0)
    assert 57 <= few.needed <= 57 * 1.05
    none = fit_acceptance(of_color(np.zeros(0), np.zeros(0, bool)), RULE)
    assert (none.products, none.thresholds, none.needed) == (0, [None, None], 57)
    enough = fit_acceptance(of_color(np.full(57, 0.9), np.ones(57, bool)), RULE)
    assert enough.needed is None and (enough.accepted, enough.right) == (57, 57)


def test_that_as_many_more_would_do_is_true():
    scores, right = np.full(100, 0.9), np.arange(100) >= 6
    acceptance = fit_acceptance(of_color(scores, right), RULE)
    assert acceptance.thresholds == [None, None]
    times = acceptance.needed / 100
    more = np.full(acceptance.needed, 0.9), np.arange(acceptance.needed) >= round(6 * times)
    assert 1.2 < times < 5 and fit_acceptance(of_color(*more), RULE).accepted == acceptance.needed


def test_where_the_surest_are_wrong_no_number_would_do():
    acceptance = fit_acceptance(of_color(np.full(100, 0.9), np.arange(100) >= 20), RULE)
    assert (acceptance.thresholds, acceptance.needed) == ([None, None], None)
    (line,) = remarks(TaskSet([COLOR.model_copy(update={"acceptance": acceptance})]))
    assert line.startswith(
        "color: that 90% of the accepted answers are right cannot be promised with 100 products, nor"
    )


def test_costs_against_trying_every_threshold():
    rule = Rule(cost_wrong=5, cost_review=1)
    scores, right = drawn(500, seed=1)
    (threshold, _) = fit_acceptance(of_color(scores, right), rule).thresholds

    def cost(least: float) -> int:
        return 5 * int((~right[scores >= least]).sum()) + int((scores < least).sum())

    assert cost(threshold) == min(cost(least) for least in GRID) < min(cost(0), cost(2))
    # A score that is the chance of being right is worth it from 0.8 on.
    assert threshold == pytest.approx(0.8, abs=0.06)
    hopeless = fit_acceptance(of_color(scores, np.zeros(500, bool)), rule)
    assert hopeless.thresholds == [None, None] and hopeless.needed is None


def test_a_label_that_is_answered_often_has_a_threshold_of_its_own():
    red, blue = np.linspace(0.6, 0.99, ENOUGH), np.linspace(0.6, 0.99, ENOUGH - 1)
    scores_NL = torch.tensor(np.concatenate([np.stack([red, 1 - red], 1), np.stack([1 - blue, blue], 1)])).float()
    right_N = torch.tensor(np.concatenate([np.ones(ENOUGH, bool), blue > 0.75]))
    answered_NL = torch.from_numpy(COLOR.answered(scores_NL.numpy()))
    answers = Answers(COLOR, scores_NL, answered_NL, answered_NL == right_N[:, None], torch.arange(len(right_N)))
    own = fit_acceptance(answers, Rule(precision=0.8, per_label=True)).thresholds
    shared = fit_acceptance(answers, Rule(precision=0.8)).thresholds
    # Red, always right, answers for blue, which is not from 0.75 down.
    assert own[0] == 0.0 and 0.65 < shared[0] + 0.05 < own[1] < 0.75 and shared[0] == shared[1]
    fewer = Answers(COLOR, *(array[1:] for array in answers[1:]))
    assert (
        fit_acceptance(fewer, Rule(precision=0.8, per_label=True)).thresholds
        == fit_acceptance(fewer, Rule(precision=0.8)).thresholds
    )


def test_every_task_that_has_labels_by_its_own_rule():
    tasks = TaskSet([COLOR, TAGS]).with_mismatch()
    logits_NC = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    color_NL = torch.eye(2)[logits_NC[:, :2].argmax(dim=1)]
    targets_NC = torch.cat([color_NL, torch.full((90, 4), MISSING)], dim=1)
    rules = {"color": Rule(precision=0.8), "tags": RULE}
    color, tags, mismatch = with_acceptance(logits_NC, targets_NC, tasks, rules)
    assert color.acceptance.rule.precision == 0.8 and color.acceptance.accepted == 90
    assert tags.acceptance.products == 0 and tags.acceptance.thresholds == [None] * 3
    assert isinstance(mismatch, Mismatch) and mismatch.acceptance is None
    served = tasks.scores(logits_NC.numpy())[:, :2]
    (judged, _, _) = answers_by_task(logits_NC, targets_NC, TaskSet([color, tags, mismatch]))
    assert judged.accepted() == (90, 90) and color.accepted(served).all()
    assert remarks(TaskSet([color, tags]))[0] == (
        "color: at least 80% of the accepted answers are right (confidence 95%); decided by 90 products, of which"
        " 100.0% are accepted, 100.0% of them rightly"
    )


def test_what_is_said_of_labels_without_a_promise_and_of_costs():
    acceptance = Acceptance(rule=RULE, thresholds=[0.5, None], products=200, accepted=50, right=49)
    own = COLOR.model_copy(update={"acceptance": acceptance})
    assert remarks(TaskSet([own]))[0].endswith(
        "decided by 200 products, of which 25.0% are accepted, 98.0% of them rightly; no promise for blue"
    )
    costs = acceptance.model_copy(update={"rule": Rule(cost_wrong=5, cost_review=0.5)})
    assert remarks(TaskSet([COLOR.model_copy(update={"acceptance": costs})])) == [
        "color: accepted where that costs less than to look, 5 a wrong one and 0.5 a look; decided by 200 products, of"
        " which 25.0% are accepted, 98.0% of them rightly"
    ]
