"""From logits to the answer a caller reads, by hand-computed values."""

from __future__ import annotations

import json

import numpy as np
import pytest

from model.config import Task
from model.decode import predictions, probabilities, split_by_task

COLOR = Task(name="color", kind="single_label", labels=["red", "blue"], thresholds=[0.7])
TAGS = Task(name="tags", kind="multi_label", labels=["a", "b", "c"], thresholds=[0.5, 0.9, 0.1])
LOGITS = np.array([[np.log(3.0), 0.0, 0.0, 0.0, -10.0], [0.0, 0.1, -5.0, -5.0, -9.0]], dtype=np.float32)


def test_probabilities():
    scores = probabilities(LOGITS, [COLOR, TAGS])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], [0.75, 0.25, 0.5, 0.5, 1 / (1 + np.exp(10))], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose([part.shape[1] for _, part in split_by_task(scores, [COLOR, TAGS])], [2, 3])


def test_huge_logits_stay_finite():
    scores = probabilities(np.array([[1e4, -1e4, 1e4, -1e4, 0.0]], dtype=np.float32), [COLOR, TAGS])
    np.testing.assert_allclose(scores, [[1, 0, 1, 0, 0.5]])


def test_predictions():
    share, present = np.array([[0.25, 1.0], [0.5, 0.0]], np.float32), np.array([[True, True], [False, True]])
    first, second = predictions(probabilities(LOGITS, [COLOR, TAGS]), share, present, [COLOR, TAGS])
    assert first["color"] == {
        "label": "red",
        "score": 0.75,
        "accepted": True,
        "top": [["red", 0.75], ["blue", 0.25]],
        "text_share": 0.25,
        "modality": "title_and_image",
    }
    assert (first["tags"]["labels"], first["tags"]["scores"], first["tags"]["accepted"]) == (["a"], [0.5], True)
    assert second["color"]["label"] == "blue" and not second["color"]["accepted"]
    assert second["tags"]["labels"] == [] and not second["tags"]["accepted"]
    assert second["tags"]["modality"] == "image_only" and second["tags"]["text_share"] == 0.0
    json.dumps([first, second])


@pytest.mark.parametrize(("kind", "accepted"), [("single_label", True), ("multi_label", False)])
def test_default_thresholds(kind: str, accepted: bool):
    task = Task(name="t", kind=kind, labels=["x", "y"])
    logits = np.array([[-1.0, -2.0]], dtype=np.float32)
    (answer,) = predictions(probabilities(logits, [task]), np.ones((1, 1)), np.ones((1, 2), bool), [task])
    assert answer["t"]["accepted"] is accepted
