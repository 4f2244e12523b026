"""A kind of task that the project does not have, through all that asks the kind; docs/extending.md shows this class."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny import TASKS, tiny_bundle_config, tiny_network
from torch import Tensor

from dataset.format import shard_schema
from dataset.labels import labels_of, parse_task
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.bundle import load_bundle, save_bundle
from model.tasks import KINDS, MISSING, SingleLabel, TaskSet
from serve.export.parity import compare
from train.answers import answers_by_task
from train.class_table import write_class_tables
from train.losses import classification_losses
from train.metrics import task_metrics
from train.score import main as score
from train.thresholds import fit_thresholds


class Ordinal(SingleLabel):
    """One label of several in an order: a logit for each step between two, and the median is answered."""

    kind: Literal["ordinal"] = "ordinal"

    @property
    def columns(self) -> int:
        return len(self.labels) - 1

    def loss(self, logits_BC: Tensor, targets_BL: Tensor, weights_L: Tensor) -> Tensor:
        import torch.nn.functional as F

        beyond_BC = 1 - targets_BL.cumsum(dim=1)[:, :-1]
        return F.binary_cross_entropy_with_logits(logits_BC, beyond_BC, reduction="none").sum(dim=1)

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        beyond_BC = np.minimum.accumulate(0.5 * (1 + np.tanh(0.5 * logits_BC)), axis=1)
        return -np.diff(beyond_BC, axis=1, prepend=np.float32(1), append=np.float32(0))

    def answered(self, scores_NL: np.ndarray) -> np.ndarray:
        median_N = (scores_NL.cumsum(axis=1) >= 0.5).argmax(axis=1)
        return np.arange(scores_NL.shape[1]) == median_N[:, None]


# Beyond small 0.9, 0.6, 0.3; beyond medium 0.4, 0.1, 0.1: scores 0.1 0.5 0.4, 0.4 0.5 0.1, 0.7 0.2 0.1
LOGITS = torch.logit(torch.tensor([[0.9, 0.4], [0.6, 0.1], [0.3, 0.1]]))
TARGETS = torch.tensor([[0.0, 1, 0], [1, 0, 0], [1, 0, 0]])


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "ordinal", Ordinal)


@pytest.fixture
def size() -> Ordinal:
    return Ordinal(name="size", labels=["small", "medium", "large"])


@pytest.fixture
def tasks(size: Ordinal) -> TaskSet:
    return TaskSet([TASKS[1], size])


def test_its_columns_lie_beside_the_others(tasks: TaskSet):
    assert tasks.num_columns == 4
    assert [part.tolist() for _, part in tasks.split_logits(np.arange(4))] == [[0, 1], [2, 3]]
    assert [part.tolist() for _, part in tasks.split(np.arange(5))] == [[0, 1], [2, 3, 4]]
    assert tasks.encode({"id": "1", "pattern": None, "size": "large"}).tolist() == [MISSING, MISSING, 0, 0, 1]


def test_loss_by_hand(tasks: TaskSet):
    logits = torch.cat([torch.zeros(3, 2), LOGITS], dim=1)
    targets = torch.cat([torch.full((3, 2), MISSING), TARGETS], dim=1)
    targets[2] = MISSING
    sums, counts = classification_losses(logits, targets, tasks)
    # medium: beyond small, not beyond medium; small: beyond neither
    assert sums[1].item() == pytest.approx(-math.log(0.9 * 0.6) - math.log(0.4 * 0.9), rel=1e-5)
    assert counts.tolist() == [0, 2]


def test_scores_decision_and_answer(size: Ordinal):
    scores = size.scores(LOGITS.numpy())
    np.testing.assert_allclose(scores, [[0.1, 0.5, 0.4], [0.4, 0.5, 0.1], [0.7, 0.2, 0.1]], rtol=1e-5)
    assert size.answered(scores).argmax(axis=1).tolist() == [1, 1, 0]
    lopsided = np.float32([[0.4, 0.25, 0.35]])  # small has the best score, medium is the median
    answer = size.model_copy(update={"thresholds": [0.3]}).answers(lopsided)[0]
    assert (answer["label"], answer["score"], answer["labels"], answer["scores"]) == (
        "medium",
        0.25,
        ["medium"],
        [0.25],
    )
    assert answer["top"][0] == ["small", 0.4] and not answer["accepted"]


def test_thresholds_and_metrics(size: Ordinal, tmp_path: Path):
    fitted = fit_thresholds(LOGITS, TARGETS, TaskSet([size]))
    assert isinstance(fitted[0], Ordinal) and fitted[0].thresholds == pytest.approx(
        [0.7]
    )  # medium is right, then wrong
    values = task_metrics(LOGITS, torch.ones(3, 1), TARGETS, fitted)["size"]
    assert values["accuracy"] == pytest.approx(2 / 3) and values["recall_at_90_precision"] == pytest.approx(1 / 3)
    write_class_tables(tmp_path, next(answers_by_task(LOGITS, TARGETS, fitted)))
    counts = (tmp_path / "confusion-size.csv").read_text().splitlines()
    assert counts[1:] == ["small,1,1,0", "medium,0,1,0", "large,0,0,0"]


def test_parity_compares_its_decision(size: Ordinal):
    """The best score stays with small and the median moves from small to medium."""

    def compared(beyond_small: float) -> dict:
        torchs, engines = (torch.logit(torch.tensor([[beyond, 0.3]])) for beyond in (beyond_small, 0.51))
        network = lambda *_: (torchs, torch.ones(1, 1))  # noqa: E731
        bundle = SimpleNamespace(config=SimpleNamespace(tasks=TaskSet([size])), network=network)
        inputs = iter([(np.zeros((1, 3), np.int32), np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 2), bool))])
        return compare(bundle, lambda *_: (engines.numpy(), np.ones((1, 1))), "bf16", inputs)

    near, far = compared(0.49), compared(0.41)
    assert (near["passed"], near["near_ties"], near["flips"]) == (True, 1, 0)
    assert (far["passed"], far["near_ties"], far["flips"]) == (False, 0, 1)


def test_from_a_table_over_a_bundle_to_a_judgement(tasks: TaskSet, tmp_path: Path):
    column = parse_task("size:ordinal")
    assert labels_of(column, " small ") == ["small"]
    with pytest.raises(ValueError, match="2 labels"):
        labels_of(column, ["small", "large"])
    assert shard_schema(tasks).field("size").type == pa.string()

    def rows() -> Iterator[Product]:
        for n, label in enumerate(["small", "large", None, "medium"] * 2):
            yield Product(str(n), b"", f"title {n}", {"pattern": "dots", "size": label}, "train" if n < 4 else "test")

    info = write_rows(NewDataset(tmp_path / "data", tasks, source="drawn", settings={}), rows())
    assert isinstance(info.tasks[1], Ordinal)
    save_bundle(tmp_path / "bundle", tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.config.tasks == tasks and isinstance(bundle.config.tasks[1], Ordinal)
    assert bundle.classify([("title", b"")])[0]["size"]["label"] in tasks[1].labels
    assert score([str(tmp_path / "bundle"), "--data", str(tmp_path / "data")]) == 0
    assert "small" in (tmp_path / "score-test/confusion-size.csv").read_text()
