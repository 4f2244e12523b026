"""Which answers are accepted, and why others are not, by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError

from model.acceptance import Acceptance, Rule
from model.tasks import MultiLabel, SingleLabel, Task, TaskSet

COSTS = Rule(cost_wrong=5, cost_review=1)


def color(*thresholds: float | None, rule: Rule = Rule()) -> SingleLabel:  # noqa: B008  frozen
    acceptance = Acceptance(rule=rule, thresholds=list(thresholds), products=10)
    return SingleLabel(name="color", labels=["red", "blue", "green"], thresholds=[0.99], acceptance=acceptance)


def tags(*thresholds: float | None) -> MultiLabel:
    acceptance = Acceptance(rule=Rule(), thresholds=list(thresholds), products=10)
    return MultiLabel(name="tags", labels=["a", "b", "c"], thresholds=[0.5, 0.5, 0.5], acceptance=acceptance)


def answered(task: Task, *scores: float) -> dict:
    (answer,) = task.answers(np.array([scores], np.float32))
    return answer


def test_a_labels_own_threshold_decides_and_the_paper_one_no_more():
    task = color(0.6, 0.8, None)
    assert answered(task, 0.6, 0.3, 0.1)["accepted"] is True
    assert "refused" not in answered(task, 0.6, 0.3, 0.1)
    below = answered(task, 0.3, 0.7, 0.0)
    assert (below["accepted"], below["refused"], below["label"]) == (False, "score", "blue")
    never = answered(task, 0.0, 0.0, 1.0)
    assert (never["accepted"], never["refused"], never["label"]) == (False, "no promise", "green")
    assert "accepted_labels" not in never


def test_where_costs_decide_no_promise_is_missed():
    assert answered(color(None, None, None, rule=COSTS), 0.9, 0.1, 0.0)["refused"] == "score"


def test_of_several_labels_those_that_keep_the_promise_are_named():
    some = answered(tags(0.7, None, 0.6), 0.65, 0.9, 0.8)
    assert (some["labels"], some["accepted"], some["accepted_labels"]) == (["b", "c", "a"], True, ["c"])
    none = answered(tags(0.7, None, 0.6), 0.65, 0.9, 0.2)
    assert (none["labels"], none["accepted_labels"], none["refused"]) == (["b", "a"], [], "score")
    hopeless = answered(tags(0.7, None, 0.6), 0.1, 0.9, 0.2)
    assert (hopeless["labels"], hopeless["refused"]) == (["b"], "no promise")
    nothing = answered(tags(0.7, None, 0.6), 0.1, 0.2, 0.2)
    assert (nothing["labels"], nothing["accepted"], nothing["refused"]) == ([], False, "score")
    # Accepted are answered ones only, however low the promise reaches.
    assert answered(tags(0.1, 0.1, 0.1), 0.4, 0.6, 0.4)["accepted_labels"] == ["b"]


def test_without_a_promise_an_answer_is_as_it_was():
    task = MultiLabel(name="tags", labels=["a", "b"], thresholds=[0.5, 0.5])
    assert "accepted_labels" not in answered(task, 0.6, 0.1)
    assert answered(task, 0.1, 0.1)["refused"] == "score"
    assert "acceptance" not in json.loads(task.model_dump_json())


def test_a_mismatch_refuses_what_was_promised_too():
    tasks = TaskSet([color(0.1, 0.1, 0.1), tags(0.1, 0.1, 0.1)]).with_mismatch().refusing()
    scores = np.array([[0.9, 0.1, 0.0, 0.9, 0.9, 0.9, wrong] for wrong in (0.9, 0.1)], np.float32)
    refused, accepted = tasks.predictions(scores, np.ones((2, 3), np.float32), np.ones((2, 2), bool))
    for name in ("color", "tags"):
        assert (refused[name]["accepted"], refused[name]["refused"]) == (False, "mismatch")
        assert accepted[name]["accepted"] and "refused" not in accepted[name]
    assert (refused["tags"]["accepted_labels"], accepted["tags"]["accepted_labels"]) == ([], ["a", "b", "c"])
    assert "refused" not in accepted["mismatch"] and accepted["mismatch"]["accepted"] is False


def test_a_score_just_at_its_threshold_suffices_after_a_trip_through_json():
    at = np.float32(1 / 3)
    task = Task.model_validate_json(color(float(at), None, None).model_dump_json())
    scores = np.array([[at, 0, 0], [np.nextafter(at, np.float32(0)), 0, 0]], np.float32)
    assert task.accepted(scores).tolist() == [True, False]
    assert task.acceptance == color(float(at), None, None).acceptance


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"precision": 1.0}, "precision"),
        ({"precision": 0.0}, "precision"),
        ({"confidence": 1.5}, "confidence"),
        ({"cost_wrong": 5}, "give both or none"),
        ({"cost_review": 5}, "give both or none"),
        ({"cost_wrong": 1, "cost_review": 1}, "nobody needs to look"),
        ({"cost_wrong": 1, "cost_review": 0}, "cost_review"),
        ({"precisoin": 0.9}, "precisoin"),
    ],
)
def test_what_is_no_rule(settings: dict, fault: str):
    with pytest.raises(ValidationError, match=fault):
        Rule.model_validate(settings)


def test_a_threshold_for_each_label():
    acceptance = Acceptance(rule=Rule(), thresholds=[0.5], products=1)
    with pytest.raises(ValidationError, match="task color: acceptance has 1 thresholds for 3 labels"):
        SingleLabel.model_validate({"name": "color", "labels": ["a", "b", "c"], "acceptance": acceptance})
