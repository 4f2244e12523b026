"""In which order products are looked at: what is expected of each, why, and who takes turns."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.review_order import AGREED, ALIKE, UNKNOWN, Look, Said, answered, in_turns, look, rarity_of
from model.tasks import MultiLabel, SingleLabel, TaskSet

TASKS = TaskSet([SingleLabel(name="color", labels=["red", "blue"]), MultiLabel(name="tags", labels=["new", "rare"])])
EVEN = {"color": {"red": 1.0, "blue": 1.0}, "tags": {"new": 1.0, "rare": 2.0}}


@pytest.mark.parametrize(
    ("given", "said", "beliefs", "expected"),
    [
        (["red"], Said(["blue"], 0.75), {}, Look(0.75, "color", "label")),
        (["red"], Said(["red"], 0.75), {}, Look(AGREED * 0.25, "color", "")),
        (["red"], Said(["red"], 0.75, "score"), {}, Look(AGREED * 0.25, "color", "score")),
        (["red"], Said(["red"], 0.75), {"color": 0.125}, Look(0.875, "color", "label")),
        (["red"], None, {}, Look(0.0, "color", "")),
        (["red"], None, {"color": 0.5}, Look(0.5, "color", "label")),
        (None, Said(["blue"], 0.75, "mismatch"), {}, Look(0.25, "color", "mismatch")),
        (None, None, {}, Look(UNKNOWN, "color", "no answer")),
        (None, Said([], UNKNOWN, "not_applicable"), {}, Look(0.0, "color", "")),
        (["red"], Said([], UNKNOWN, "not_applicable"), {}, Look(UNKNOWN, "color", "label")),
    ],
)
def test_what_a_look_at_one_task_is_for(given, said, beliefs, expected: Look):
    assert look({"color": given}, {"color": said} if said else {}, beliefs, EVEN) == expected


def test_of_several_labels_one_too_few_is_as_good_as_unknown():
    assert look({"tags": ["new"]}, {"tags": Said([], 0.9)}, {}, EVEN) == Look(UNKNOWN, "tags", "label")
    assert look({"tags": []}, {"tags": Said(["new"], 0.75)}, {}, EVEN) == Look(0.75, "tags", "label")
    assert look({"tags": ["rare", "new"]}, {"tags": Said(["new", "rare"], 0.75)}, {}, EVEN).worth == AGREED * 0.25 * 2


def test_tasks_add_up_and_the_one_of_which_most_is_expected_is_named():
    said = {"color": Said(["blue"], 0.75), "tags": Said(["rare"], 0.5)}
    assert look({"color": ["red"], "tags": ["new"]}, said, {}, EVEN) == Look(0.75 + 2 * 0.5, "tags", "label")
    assert look({"color": ["red"], "tags": None}, said | {"tags": Said(["new"], 0.5)}, {}, EVEN) == Look(
        0.75 + 0.5, "color", "label"
    )


def test_a_task_that_needs_a_look_is_named_before_one_of_which_more_is_expected_and_nothing_is_wrong():
    said = {"color": Said(["blue"], 0.5), "tags": Said(["new"], 0.75, "score")}
    assert look({"color": None, "tags": None}, said, {}, EVEN) == Look(0.5 + 0.25, "tags", "score")


def test_a_title_that_does_not_belong_to_the_image_is_a_reason_of_its_own():
    said = {"color": Said(["red"], 0.875)}
    assert look({"color": ["red"]}, said, {}, EVEN, mismatch=0.75) == Look(0.75 + AGREED / 8, "mismatch", "mismatch")
    assert look({"color": ["blue"]}, said, {}, EVEN, mismatch=0.75) == Look(0.75 + 0.875, "color", "label")


def test_rare_labels_count_up_to_three_times():
    counts = {"color": {"red": 72, "blue": 8}, "tags": {"new": 400}}
    assert rarity_of(TASKS, counts) == {
        "color": {"red": 1.0, "blue": pytest.approx((40 / 8) ** 0.5)},
        "tags": {"new": 1.0, "rare": 3.0},
    }
    assert rarity_of(TASKS, {"color": {}, "tags": {}})["color"] == {"red": 1.0, "blue": 1.0}


def test_what_is_answered_alike_takes_turns():
    red, blue = (("red",),), (("blue",),)
    worth = np.array([0.9, 0.89, 0.88, 0.8, 0.1])
    # 0.8 of the other kind is more than 0.89 / 2 ** ALIKE, but 0.1 is less than all.
    assert 0.8 > 0.89 / 2**ALIKE > 0.88 / 3**ALIKE > 0.1
    assert in_turns(worth, [red, red, red, blue, blue]).tolist() == [0, 3, 1, 2, 4]
    assert in_turns(worth, [red, (("red", "blue"),), (), blue, ("", "")]).tolist() == [0, 1, 2, 3, 4]


def test_equals_keep_their_order_and_products_without_a_reason_stay_last():
    assert in_turns(np.array([0.5, 0.5, 0.5]), ["a", "b", "c"]).tolist() == [0, 1, 2]
    assert in_turns(np.array([-1.0, 0.0, -1.0, 0.3]), ["a", "a", "a", "a"])[:2].tolist() == [3, 1]
    assert in_turns(np.zeros(0), []).tolist() == []


def test_answered_is_what_is_said_else_what_is_given():
    given = {"color": ["red"], "tags": None, "size": None}
    said = {"color": Said(["blue"], 0.5), "tags": Said(["new", "rare"], 0.5)}
    assert answered(given, said) == (("blue",), ("new", "rare"), ())
    assert answered(given, {}) == (("red",), (), ())
