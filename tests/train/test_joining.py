"""Two parts joined by validation: against a search by hand, where one is noise, and where nothing is known."""

from __future__ import annotations

import pytest
import torch

from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from train.joining import EVEN, fit_strengths, joined
from train.losses import classification_losses

TASKS = TaskSet([SingleLabel(name="color", labels=["red", "blue"]), MultiLabel(name="look", labels=["a", "b", "c"])])
COUNT = 400


def answers() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of two parts that each see the truth through noise of their own, and the truth."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(COUNT, 5)
    targets[torch.arange(COUNT), torch.randint(2, (COUNT,), generator=generator)] = 1
    targets[:, 2:] = (torch.rand(COUNT, 3, generator=generator) < 0.5).float()
    deep, wide = (2 * targets - 1 + torch.randn(COUNT, 5, generator=generator) for _ in range(2))
    return deep, wide, targets


def loss_of(strengths: torch.Tensor, deep: torch.Tensor, wide: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    sums, counts = classification_losses(joined(strengths, deep, wide, TASKS), targets, TASKS)
    return sums / counts


def test_no_other_strengths_do_better():
    deep, wide, targets = answers()
    found = fit_strengths(deep, wide, targets, TASKS)
    best = loss_of(found, deep, wide, targets)
    for times in torch.tensor([[0.9, 1.0], [1.1, 1.0], [1.0, 0.9], [1.0, 1.1]])[:, :, None]:
        assert (loss_of(times * found, deep, wide, targets) > best - 1e-4).all()
    for alone in torch.tensor([[1.0, 0.0], [0.0, 1.0]])[:, :, None].expand(-1, -1, 2):
        assert (loss_of(alone, deep, wide, targets) > best + 0.03).all()


@pytest.mark.parametrize("noise", [0, 1])
def test_a_part_that_is_noise_hardly_counts(noise: int):
    *parts, targets = answers()
    parts[noise] = torch.randn(COUNT, 5, generator=torch.Generator().manual_seed(1))
    found = fit_strengths(*parts, targets, TASKS)
    assert (found[noise] < 0.2 * found[1 - noise]).all() and (found > 0).all()


def test_weights_of_labels_count_as_in_training():
    deep, wide, targets = answers()
    plain, weighed = (fit_strengths(deep, wide, targets, TASKS, w) for w in (None, torch.tensor([1, 1, 50.0, 50, 50])))
    torch.testing.assert_close(plain[:, 0], weighed[:, 0], rtol=1e-2, atol=0)
    assert not torch.allclose(plain[:, 1], weighed[:, 1], rtol=0.1)


def test_a_task_without_labels_takes_both_evenly():
    deep, wide, targets = answers()
    targets[:, :2] = MISSING
    found = fit_strengths(deep, wide, targets, TASKS)
    torch.testing.assert_close(found[:, 0], torch.full((2,), EVEN))
    assert (found[:, 1] > 0.6).all()
