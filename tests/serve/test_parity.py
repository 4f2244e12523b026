"""Parity sees what a user would: decisions next to where they turn, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from model.tasks import Condition, MultiLabel, SingleLabel, TaskSet
from serve.export.parity import compare

COLOR = SingleLabel(name="color", labels=["red", "blue"], thresholds=[0.6])
TAGS = MultiLabel(name="tags", labels=["a", "b"])
TASKS = TaskSet([COLOR, TAGS])
SURE = [0.9, 0.1, 0.9, 0.1]
INPUTS = (np.zeros((1, 3), np.int32), np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 2), bool))


def logits(scores: Sequence[Sequence[float]]) -> np.ndarray:
    """Those that give these scores."""
    scores_BL = np.float32(scores)
    return np.concatenate([np.log(scores_BL[:, :2]), np.log(scores_BL[:, 2:] / (1 - scores_BL[:, 2:]))], axis=1)


def compared(
    torchs: Sequence[Sequence[float]], engines: Sequence[Sequence[float]], precision: str, tasks: TaskSet = TASKS
) -> dict[str, Any]:
    share = np.full((len(torchs), 2), 0.5, np.float32)
    network = lambda *_: (torch.from_numpy(logits(torchs)), torch.from_numpy(share))  # noqa: E731
    bundle: Any = SimpleNamespace(config=SimpleNamespace(tasks=tasks), network=network)
    return compare(bundle, lambda *_: (logits(engines), share), precision, iter([INPUTS]))


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize(
    ("task", "torchs", "engines", "is_near"),
    [
        # from here on it is the label of one task that turns, moved by less than bf16's limit
        ("tags", [*SURE[:2], 0.53, 0.1], [*SURE[:2], 0.47, 0.1], True),
        ("tags", [*SURE[:2], 0.58, 0.1], [*SURE[:2], 0.47, 0.1], False),
        ("tags", [*SURE[:2], 0.9, 0.46], [*SURE[:2], 0.9, 0.51], True),
        ("tags", [*SURE[:2], 0.9, 0.42], [*SURE[:2], 0.9, 0.51], False),
        ("tags", [*SURE[:2], 0.58, 0.53], [*SURE[:2], 0.47, 0.47], False),  # one of two is near
        ("color", [0.54, 0.46, *SURE[2:]], [0.46, 0.54, *SURE[2:]], True),
        ("color", [0.56, 0.44, *SURE[2:]], [0.46, 0.54, *SURE[2:]], False),
        # the label stays, `accepted` turns
        ("color", [0.64, 0.36, *SURE[2:]], [0.59, 0.41, *SURE[2:]], True),
        ("color", [0.66, 0.34, *SURE[2:]], [0.59, 0.41, *SURE[2:]], False),
    ],
)
def test_a_turned_decision_fails_but_for_near_ties(
    precision: str, task: str, torchs: list[float], engines: list[float], is_near: bool
):
    report = compared([torchs], [engines], precision)
    assert report["probability_difference"] < 0.15
    assert (report["passed"], report["flips"], report["near_ties"]) == (is_near, int(not is_near), int(is_near))
    assert report["agreement"] == float(is_near)
    other = "tags" if task == "color" else "color"
    assert report["tasks"][task]["flips"] == report["flips"] and report["tasks"][other]["flips"] == 0


def test_a_lost_label_fails_though_the_best_one_stays():
    torchs, engines = [*SURE[:2], 0.9, 0.6], [*SURE[:2], 0.9, 0.49]
    for precision in ("f32", "f16", "bf16", "int8"):
        assert not compared([torchs], [engines], precision)["passed"], precision


@pytest.mark.parametrize(
    ("torchs", "engines", "flips", "near_ties"),
    [
        # tags are asked of what is red; whether they are is what turns
        ([0.53, 0.47, *SURE[2:]], [0.47, 0.53, *SURE[2:]], 0, 2),
        ([0.56, 0.44, *SURE[2:]], [0.44, 0.56, *SURE[2:]], 2, 0),
        # where they are not, nobody sees which they would be
        ([0.1, 0.9, 0.58, 0.1], [0.1, 0.9, 0.47, 0.1], 0, 0),
        ([0.9, 0.1, 0.58, 0.1], [0.9, 0.1, 0.47, 0.1], 1, 0),
    ],
)
def test_whether_a_task_applies_is_a_decision_too(
    torchs: list[float], engines: list[float], flips: int, near_ties: int
):
    asked = TAGS.model_copy(update={"only_if": Condition(task="color", labels=["red"])})
    report = compared([torchs], [engines], "bf16", TaskSet([COLOR, asked]))
    assert (report["flips"], report["near_ties"]) == (flips, near_ties)


def test_what_is_near_shrinks_with_the_precision():
    torchs, engines = [*SURE[:2], 0.5005, 0.1], [*SURE[:2], 0.4999, 0.1]
    assert compared([torchs], [engines], "f32")["near_ties"] == 1
    torchs[2] = 0.503
    report = compared([torchs], [engines], "f32")
    assert report["flips"] == 1 and not report["passed"]
    assert compared([torchs], [engines], "f16")["near_ties"] == 1


def test_int8_may_flip_two_of_a_hundred_and_near_ties_do_not_count():
    near, far = [*SURE[:2], 0.53, 0.1], [*SURE[:2], 0.7, 0.1]
    lost = [*SURE[:2], 0.47, 0.1]

    def passed(flips: int, near_ties: int) -> tuple[bool, float]:
        rest = 100 - flips - near_ties
        torchs = [far] * flips + [near] * near_ties + [SURE] * rest
        report = compared(torchs, [lost] * (flips + near_ties) + [SURE] * rest, "int8")
        assert (report["flips"], report["near_ties"]) == (flips, near_ties)
        return report["passed"], report["agreement"]

    assert passed(0, 50) == (True, 1.0)
    assert passed(2, 50) == (True, 0.98)
    assert passed(3, 0) == (False, 0.97)


def test_the_same_decision_is_no_flip_however_far_scores_move_in_int8():
    report = compared([[0.9, 0.1, 0.9, 0.1]], [[0.65, 0.35, 0.55, 0.4]], "int8")
    assert report["passed"] and report["flips"] == report["near_ties"] == 0
    assert report["probability_difference"] == pytest.approx(0.35, abs=1e-5)
    assert not compared([[0.9, 0.1, 0.9, 0.1]], [[0.65, 0.35, 0.55, 0.4]], "bf16")["passed"]
