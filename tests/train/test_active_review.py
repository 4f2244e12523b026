"""How many looks a review's order saves, by a simulated reviewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cma_clip.command import EXIT_BAD_INPUT
from model.tasks import SingleLabel, TaskSet
from train.study import active_review
from train.study.active_review import (
    AT_RANDOM,
    Known,
    audit,
    crawled,
    fitted,
    judged,
    looks_for,
    main,
    new,
    queue,
    rows,
    with_wrong,
)

TASKS = TaskSet(
    [SingleLabel(name="color", labels=["red", "blue", "green"]), SingleLabel(name="shape", labels=["round", "long"])]
)


@pytest.fixture(scope="module")
def known() -> Known:
    """Four hundred points around the middles of six kinds of products; one in ten labels is wrong."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels_NK = rng.integers(0, (3, 2), (count, 2))
        middles = np.eye(5)[labels_NK[:, 0]] + np.eye(5)[3 + labels_NK[:, 1]]
        return (middles + 0.3 * rng.normal(size=middles.shape)).astype(np.float32), labels_NK

    splits = {name: drawn(count) for name, count in (("train", 400), ("validation", 60), ("test", 300))}
    features, labels = ({name: split[i] for name, split in splits.items()} for i in (0, 1))
    known = Known(TASKS, features, labels, labels["train"])
    return known._replace(given=labels | {"train": with_wrong(known, rng)})


def test_one_in_ten_is_another_label(known: Known):
    wrong_NK = known.given["train"] != known.true_NK
    assert np.all((wrong_NK.mean(axis=0) > 0.05) & (wrong_NK.mean(axis=0) < 0.15))
    assert known.given["train"].min() == 0 and known.given["train"].max(axis=0).tolist() == [2, 1]


@pytest.mark.parametrize("audited", [False, True])
def test_wrong_labels_come_before_those_at_random(known: Known, audited: bool):
    everything, given_NK = np.arange(400), known.given["train"]
    beliefs = audit(known, given_NK, np.random.default_rng(0)) if audited else None
    order_N = queue(known, fitted(known, everything, given_NK), everything, given_NK, given_NK, beliefs)
    assert sorted(order_N) == everything.tolist()
    wrong_N = (given_NK != known.true_NK).any(axis=1)
    assert wrong_N.mean() < 0.25 and wrong_N[order_N[:80]].mean() > 0.7 and wrong_N[order_N[200:]].mean() < 0.05


def test_all_looks_are_worth_the_same_in_any_order(known: Known, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(active_review, "SHARES", (0, 0.2, 1))
    curves = dict(crawled(known, 0))
    queued, chance = curves["crawled", "answers"], curves["crawled", AT_RANDOM]
    assert list(queued) == [0, 80, 400]
    assert queued[0] == chance[0] and queued[400] == chance[400]
    assert queued[400] == judged(known, fitted(known, np.arange(400), known.true_NK))
    assert dict(crawled(known, 0)) == curves != dict(crawled(known, 1))


def test_a_new_task_is_labelled_in_rounds(known: Known):
    curves = dict(new(known, 0, start=30, step=50))
    queued, chance = curves["new", "answers"], curves["new", AT_RANDOM]
    assert list(queued) == list(range(0, 370, 50)) and list(chance) == [*range(0, 370, 50), 370]
    assert queued[0] == chance[0] and chance[370] == judged(known, fitted(known, np.arange(400), known.true_NK))


def test_how_many_looks_a_curve_needs():
    curve = {0: 0.5, 100: 0.7, 200: 0.6, 300: 0.8}
    values = (0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)
    assert [looks_for(value, curve) for value in values] == pytest.approx([0, 0, 50, 100, 200, 300, 300])


def test_rows_by_hand():
    curves = {
        ("new", "answers"): [{0: [0.5, 0.2], 10: [0.7, 0.4]}, {0: [0.5, 0.4], 10: [0.7, 0.4]}],
        ("new", AT_RANDOM): [{0: [0.5, 0.2], 10: [0.6, 0.3], 30: [0.8, 0.5]}] * 2,
    }
    assert list(rows(TASKS, curves)) == [
        ["new", "answers", "color", 0, "0.500 ± 0.000", "0.500 ± 0.000", "0", ""],
        ["new", "answers", "color", 10, "0.700 ± 0.000", "0.600 ± 0.000", "20", "2.0"],
        ["new", "answers", "shape", 0, "0.300 ± 0.100", "0.200 ± 0.000", "10", ""],
        ["new", "answers", "shape", 10, "0.400 ± 0.000", "0.300 ± 0.000", "20", "2.0"],
    ]


def test_of_the_real_data_set(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(active_review, "SHARES", (0, 1))
    monkeypatch.setattr(active_review, "STRENGTHS", (3.0, 10.0))
    assert main([str(data), "--draws", "2", "--start", "60", "--round", "40"]) == 0
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert {tuple(line[:3]) for line in lines} == {
        (labels, order, task)
        for labels, order in (("crawled", "answers"), ("crawled", "answers, audit"), ("new", "answers"))
        for task in ("color", "pattern")
    }
    assert [line[3] for line in lines if line[:3] == ["new", "answers", "color"]] == ["0", "40", "80"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--draws", "1"], "--draws is 2 or more"),
        (["--start", "150"], "160 products to train on leave none to look at"),
    ],
)
def test_what_is_refused(data: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main([str(data), *options]) == EXIT_BAD_INPUT
    assert message in capsys.readouterr().err
