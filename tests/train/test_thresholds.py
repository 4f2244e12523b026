"""Thresholds by hand-computed values and against trying them all."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from tiny import TASKS

from model.tasks import MISSING, MultiLabel, Task, TaskSet
from train.answers import answers_by_task
from train.thresholds import best_f1_threshold, fit_thresholds, most_at_precision, threshold_remarks

TAGS = MultiLabel(name="tags", labels=["a", "b", "c"])


def scored(*pairs: tuple[float, int]) -> tuple[torch.Tensor, torch.Tensor]:
    scores, right = zip(*pairs, strict=True)
    return torch.tensor(scores), torch.tensor(right).bool()


@pytest.mark.parametrize(
    ("pairs", "threshold"),
    [
        # F1 1/2, 2/5, 4/6, 6/7, 6/8
        ([(0.9, 1), (0.8, 0), (0.6, 1), (0.4, 1), (0.2, 0)], 0.4),
        # the right ones have the lowest score, which all three share
        ([(0.3, 1), (0.3, 0), (0.3, 0)], 0.3),
        # 0.5 does as well as 0.8
        ([(0.8, 1), (0.3, 0)], 0.5),
        # 2/3 at 0.9 and at 0.6, less at 0.5
        ([(0.9, 1), (0.8, 0), (0.7, 0), (0.6, 1), (0.55, 0)], 0.6),
        # 2/3 at 0.75 and at 0.25, equally far from 0.5
        ([(0.75, 1), (0.7, 0), (0.65, 0), (0.25, 1)], 0.75),
        ([(0.9, 0), (0.1, 0)], 0.5),
        ([(0.9, 1)], 0.5),
        ([(0.1, 1)], 0.1),
    ],
)
def test_best_f1_threshold_by_hand(pairs: list[tuple[float, int]], threshold: float):
    assert best_f1_threshold(*scored(*pairs)) == pytest.approx(threshold)
    assert best_f1_threshold(*scored(*reversed(pairs))) == pytest.approx(threshold)


@pytest.mark.parametrize("size", [1, 17, 127, 1023])
def test_no_threshold_does_better(size: int):
    generator = torch.Generator().manual_seed(size)
    scores = torch.randint(0, 40, (size,), generator=generator) / 64
    right = torch.rand(size, generator=generator) < scores**2
    right[0] = True

    def f1(threshold: float) -> Fraction:
        answered = scores >= threshold
        return Fraction(2 * int((answered & right).sum()), int(answered.sum()) + int(right.sum()))

    chosen = best_f1_threshold(scores, right)
    best = max(f1(threshold) for threshold in [0.5, *scores.tolist()])
    assert f1(chosen) == best
    ties = [threshold for threshold in [0.5, *scores.tolist()] if f1(threshold) == best]
    assert abs(chosen - 0.5) == min(abs(threshold - 0.5) for threshold in ties)


def test_exactly_90_percent_is_reached():
    pairs = [(0.95 - n / 100, int(n != 1)) for n in range(10)]
    assert most_at_precision(*scored(*pairs)) == (9, pytest.approx(0.86))
    assert most_at_precision(*scored(*pairs[:9])) == (1, pytest.approx(0.95))


def test_equal_scores_are_accepted_together_and_the_highest_threshold_is_taken():
    assert most_at_precision(*scored((0.9, 1), (0.8, 1), (0.8, 0))) == (1, pytest.approx(0.9))
    many = [(0.9, 1)] * 20 + [(0.8, 0)]
    assert most_at_precision(*scored(*many)) == (20, pytest.approx(0.9))
    assert most_at_precision(*scored((0.9, 0), (0.8, 0))) == (0, 1.0)


def test_fit_thresholds_of_both_kinds():
    color = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.25, 0.6, 0.15], [0.2, 0.3, 0.5]]).log()
    tags = torch.logit(torch.tensor([[0.4, 0.9, 0.2], [0.3, 0.6, 0.1], [0.2, 0.7, 0.3], [0.9, 0.9, 0.9]]))
    color_targets = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    tag_targets = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 1, 0], [MISSING] * 3])
    targets = torch.cat([color_targets, tag_targets], dim=1)
    fitted = fit_thresholds(torch.cat([color, tags], dim=1), targets, TaskSet([TASKS[0], TAGS]))
    # color: right at 0.8 and 0.7, wrong at 0.6. a: right at 0.4 and 0.3. b: right from 0.7 on. c: never right
    assert fitted[0].thresholds == pytest.approx([0.7])
    assert fitted[1].thresholds == pytest.approx([0.3, 0.7, 0.5])
    assert [task.name for task in fitted] == ["color", "tags"] and TAGS.thresholds == []
    assert [Task.model_validate_json(task.model_dump_json()) for task in fitted] == list(fitted)


def test_a_task_without_labelled_products_stays_as_it_is():
    tasks = TaskSet([TASKS[0], TAGS.model_copy(update={"thresholds": [0.1, 0.2, 0.3]})])
    assert fit_thresholds(torch.randn(2, 6), torch.full((2, 6), MISSING), tasks) == tasks


def test_the_server_accepts_what_the_thresholds_were_fitted_to():
    """Every fitted threshold is a score of some product, so the slightest difference would show."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 6, generator=generator)
    targets = torch.cat([torch.eye(3)[logits[:, :3].argmax(dim=1)], (logits[:, 3:] > 0.3).float()], dim=1)
    unsure = logits[:, :3].softmax(dim=1).amax(dim=1) < 0.6
    targets[unsure, :3] = targets[unsure, :3].roll(1, dims=1)
    tasks = fit_thresholds(logits, targets, TaskSet([TASKS[0], TAGS]))
    scores = tasks.scores(logits.numpy())
    served = tasks.predictions(scores, torch.ones(200, 2).numpy(), torch.ones(200, 2).bool().numpy())
    color, tags = answers_by_task(logits, targets, tasks)
    for n, answer in enumerate(served):
        assert TASKS[0].labels[int(color.answered_NL[n].int().argmax())] == answer["color"]["label"]
        assert {TAGS.labels[i] for i in tags.answered_NL[n].nonzero()} == set(answer["tags"]["labels"])
    accepted = {n for n, answer in enumerate(served) if answer["color"]["accepted"]}
    sure = set((~unsure).nonzero().flatten().tolist())
    # Those below are all wrong, so that the highest threshold is the last sure one's score.
    assert 0 < len(sure) < 200 and accepted == sure
    assert torch.equal(tags.answered_NL, tags.targets_NL)


def test_a_threshold_that_accepts_everything_or_nothing_is_said():
    logits = torch.tensor([[2.0, 0.0, 0.0, 1.0, 0.0], [0.0, 3.0, 0.0, 1.0, 0.0]])
    wrong = torch.tensor([[0.0, 1, 0, MISSING, MISSING], [1.0, 0, 0, MISSING, MISSING]])
    assert threshold_remarks(fit_thresholds(logits, wrong, TASKS)) == [
        "color: no validation score reaches 90% precision, so none below 1.0 is accepted",
        "pattern: no validation product has its label, so every answer is accepted (threshold 0)",
    ]
    assert threshold_remarks(TaskSet([TAGS])) == [
        "tags: no validation product has its label, so its thresholds stay 0.5"
    ]
    right = torch.tensor([[1.0, 0, 0, 1, 0], [0.0, 1, 0, 1, 0]])
    assert threshold_remarks(fit_thresholds(logits, right, TASKS)) == []
