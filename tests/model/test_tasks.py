"""Kinds of tasks and sets of them, by hand-computed values."""

from __future__ import annotations

import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from cma_clip.settings import StrictModel
from model.tasks import MISSING, MultiLabel, SingleLabel, Task, TaskSet

COLOR = SingleLabel(name="color", labels=["red", "blue"], thresholds=[0.7])
TAGS = MultiLabel(name="tags", labels=["a", "b", "c"], thresholds=[0.5, 0.9, 0.1])
TASKS = TaskSet([COLOR, TAGS])
LOGITS = np.array([[np.log(3.0), 0.0, 0.0, 0.0, -10.0], [0.0, 0.1, -5.0, -5.0, -9.0]], dtype=np.float32)


class Held(StrictModel):
    tasks: TaskSet


def test_scores():
    scores = TASKS.scores(LOGITS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[0], [0.75, 0.25, 0.5, 0.5, 1 / (1 + np.exp(10))], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("values", [np.arange(10.0).reshape(2, 5), torch.arange(10.0).reshape(2, 5)])
def test_every_task_gets_its_own_columns(values):
    (color, first), (tags, second) = TASKS.split(values)
    assert (color, tags) == (COLOR, TAGS) and first[1].tolist() == [5, 6] and second[0].tolist() == [2, 3, 4]
    assert [part.tolist() for _, part in TASKS.split(values[1])] == [[5, 6], [7, 8, 9]]
    assert [part.tolist() for _, part in TASKS.split_logits(values[1])] == [[5, 6], [7, 8, 9]]
    with pytest.raises(ValueError, match="4 columns, the tasks need 5"):
        list(TASKS.split(values[:, :4]))


def test_huge_logits_stay_finite():
    scores = TASKS.scores(np.array([[1e4, -1e4, 1e4, -1e4, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(scores, [[1, 0, 1, 0, 0.5]])


def test_predictions():
    share, present = np.array([[0.25, 1.0], [0.5, 0.0]], np.float32), np.array([[True, True], [False, True]])
    first, second = TASKS.predictions(TASKS.scores(LOGITS), share, present)
    assert first["color"] == {
        "label": "red",
        "score": 0.75,
        "labels": ["red"],
        "scores": [0.75],
        "accepted": True,
        "top": [["red", 0.75], ["blue", 0.25]],
        "text_share": 0.25,
        "modality": "title_and_image",
    }
    assert (first["tags"]["labels"], first["tags"]["scores"], first["tags"]["accepted"]) == (["a"], [0.5], True)
    assert "label" not in first["tags"] and "score" not in first["tags"]
    assert second["color"]["label"] == "blue" and not second["color"]["accepted"]
    assert second["tags"]["labels"] == [] and not second["tags"]["accepted"]
    assert second["tags"]["modality"] == "image_only" and second["tags"]["text_share"] == 0.0
    json.dumps([first, second])


def test_labels_are_answered_best_first_and_of_equals_the_first_label():
    tags = MultiLabel(name="tags", labels=["a", "b", "c"], thresholds=[0.4, 0.4, 0.9])
    (answer,) = tags.answers(np.array([[0.5, 0.75, 0.8]], np.float32))
    assert (answer["labels"], answer["scores"], answer["top"][0]) == (["b", "a"], [0.75, 0.5], ["c", 0.8])
    (answer,) = COLOR.answers(np.array([[0.5, 0.5]], np.float32))
    assert (answer["label"], answer["labels"], answer["accepted"]) == ("red", ["red"], False)


@pytest.mark.parametrize(("kind", "accepted"), [(SingleLabel, True), (MultiLabel, False)])
def test_default_thresholds(kind: type[Task], accepted: bool):
    task = kind(name="t", labels=["x", "y"])
    (answer,) = task.answers(task.scores(np.array([[-1.0, -2.0]], dtype=np.float32)))
    assert answer["accepted"] is accepted


def test_a_score_just_at_its_threshold_is_answered_and_accepted_in_float32():
    """0.7 in float32 is below 0.7; the next number below is not accepted."""
    at, below = np.float32(0.7), np.nextafter(np.float32(0.7), np.float32(0))
    assert COLOR.accepted(np.array([[at, 1 - at], [below, 1 - below]])).tolist() == [True, False]
    tags = MultiLabel(name="tags", labels=["a"], thresholds=[0.7])
    assert tags.answered(np.array([[at], [below]])).tolist() == [[True], [False]]


def test_targets():
    row = {"id": "p1", "color": "blue", "tags": ["c", "a"]}
    assert TASKS.encode(row).tolist() == [0, 1, 1, 0, 1] and TASKS.encode(row).dtype == np.float32
    assert TASKS.encode(row | {"color": None, "tags": []}).tolist() == [MISSING, MISSING, 0, 0, 0]
    with pytest.raises(ValueError, match="p1: label 'd' is not among tags's 3 labels"):
        TASKS.encode(row | {"tags": ["d"]})


def test_json_is_that_of_bundles_from_before():
    text = (
        '{"tasks":[{"name":"color","kind":"single_label","labels":["red","blue"],"thresholds":[0.7]},'
        '{"name":"tags","kind":"multi_label","labels":["a","b","c"],"thresholds":[0.5,0.9,0.1]}]}'
    )
    held = Held.model_validate_json(text)
    assert held.tasks == TASKS and [type(task) for task in held.tasks] == [SingleLabel, MultiLabel]
    assert held.model_dump_json() == text and pickle.loads(pickle.dumps(held)) == held


def test_the_label_set_hash_is_that_of_bundles_from_before():
    parts = [["color", "single_label", ["red", "blue"]], ["tags", "multi_label", ["a", "b", "c"]]]
    assert TASKS.label_set_hash == hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12] == "c73702674258"
    assert TaskSet([task.model_copy(update={"thresholds": []}) for task in TASKS]).label_set_hash == "c73702674258"
    assert TaskSet([TAGS, COLOR]).label_set_hash != "c73702674258"


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([], "no tasks"),
        ([COLOR, COLOR], r"task names repeat in \['color', 'color'\]"),
        ([{"name": "a", "kind": "single_label", "labels": ["x"]}], "single-label task needs 2 or more labels"),
        ([{"name": "a", "labels": ["x"]}], "kind None: expected one of single_label, multi_label"),
        ([{"name": "a", "kind": "multi_label", "labels": ["x"], "threshold": 1}], "Extra inputs are not permitted"),
    ],
)
def test_unfit_sets_are_refused(tasks: list, message: str):
    with pytest.raises(ValidationError, match=message):
        Held(tasks=tasks)


def test_a_fault_is_laid_to_its_field():
    with pytest.raises(ValidationError) as caught:
        Held(tasks=[COLOR, {"name": "b", "kind": "multi_label", "labels": "x"}])
    assert [fault["loc"] for fault in caught.value.errors()] == [("tasks", 1, "labels")]
