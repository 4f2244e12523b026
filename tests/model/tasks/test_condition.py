"""Tasks that are asked only where another task's answer allows it, by hand-computed values."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from pydantic import ValidationError

from cma_clip.settings import StrictModel
from model.acceptance import Acceptance, Rule
from model.tasks import MISSING, NOT_ASKED, Condition, Mismatch, MultiLabel, SingleLabel, Task, TaskSet

CATEGORY = SingleLabel(name="category", labels=["dress", "shirt", "shoe"])
SLEEVE = SingleLabel(
    name="sleeve", labels=["short", "long"], only_if=Condition(task="category", labels=["shirt", "dress"])
)
CUFF = MultiLabel(name="cuff", labels=["buttoned", "ribbed"], only_if=Condition(task="sleeve", labels=["long"]))
CHAIN = TaskSet([CUFF, CATEGORY, SLEEVE])  # in any order
TAGS = MultiLabel(name="tags", labels=["new", "worn", "odd"], thresholds=[0.8, 0.3, 0.5])
WEAR = SingleLabel(name="wear", labels=["holes", "stains"], only_if=Condition(task="tags", labels=["worn", "new"]))
TAGGED = TaskSet([TAGS, WEAR])


class Held(StrictModel):
    tasks: TaskSet


def of_chain(category: list[float], sleeve: list[float]) -> np.ndarray:
    return np.array([[0.9, 0.2, *category, *sleeve]], np.float32)


@pytest.mark.parametrize(
    ("category", "sleeve", "expected"),
    [
        ([0.25, 0.3, 0.45], [0.2, 0.8], (0.55, 0.55)),  # the label answered is another one, and it applies
        ([0.6, 0.3, 0.1], [0.625, 0.375], (0.9, 0.375)),
        ([0.125, 0.25, 0.625], [0.125, 0.875], (0.375, 0.375)),  # inherited
        ([0.25, 0.25, 0.5], [0.5, 0.5], (0.5, 0.5)),
    ],
)
def test_a_chance_is_the_sum_of_the_labels_named_and_along_a_chain_the_smallest(category, sleeve, expected):
    cuff, own, of_sleeve = CHAIN.applicable(of_chain(category, sleeve))[0]
    assert own == 1 and (of_sleeve, cuff) == pytest.approx(expected, abs=1e-6)
    assert CHAIN.applies(of_chain(category, sleeve)).tolist() == [[expected[1] >= 0.5, True, expected[0] >= 0.5]]


def test_of_several_labels_one_that_is_answered_is_enough():
    from_new = np.float32(0.8)
    scores = np.array(
        [
            [0.4, 0.15, 0.9, 1, 0],  # half of each threshold
            [0.9, 0, 0, 1, 0],  # half-way from the threshold to 1
            [from_new, 0, 0, 1, 0],
            [np.nextafter(from_new, np.float32(0)), 0, 0, 1, 0],
            [0, 1, 0, 1, 0],
            [0, 0, 1, 1, 0],
        ],
        np.float32,
    )
    assert TAGGED.applicable(scores)[:, 1] == pytest.approx([0.25, 0.75, 0.5, 0.5, 1, 0], abs=1e-6)
    assert TAGGED.applies(scores)[:, 1].tolist() == [False, True, True, False, True, False]


@pytest.mark.parametrize("thresholds", [[], [0.8, 0.3, 0.5], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
def test_a_condition_on_several_labels_holds_just_where_one_of_them_is_answered(thresholds: list[float]):
    tags = TAGS.model_copy(update={"thresholds": thresholds})
    rng = np.random.default_rng(0)
    own_NL = rng.choice(np.float32([0, 0.3, 0.29999998, 0.5, 0.8, 0.99, 1]), (200, 3))
    scores = np.column_stack([own_NL, np.full((200, 2), 0.5, np.float32)])
    expected = tags.answered(own_NL)[:, :2].any(axis=1)
    tasks = TaskSet([tags, WEAR])
    with np.errstate(all="raise", under="ignore"):
        assert tasks.applies(scores)[:, 1].tolist() == expected.tolist()
    assert ((tasks.applicable(scores) >= 0) & (tasks.applicable(scores) <= 1)).all()


def predicted(tasks: TaskSet, scores: np.ndarray) -> list[dict]:
    rows, share = len(scores), np.full((len(scores), len(tasks)), 0.25, np.float32)
    return tasks.predictions(scores, share, np.ones((rows, 2), bool))


def test_an_answer_that_does_not_apply_has_no_label_and_says_so():
    promised = Acceptance(rule=Rule(), thresholds=[0.5, 0.5], products=99)
    cuff = CUFF.model_copy(update={"acceptance": promised})
    tasks = TaskSet([cuff, CATEGORY, SLEEVE])
    (answer,) = predicted(tasks, of_chain([0.125, 0.25, 0.625], [0.125, 0.875]))
    assert answer["sleeve"] == {
        "label": None,
        "score": None,
        "labels": [],
        "scores": [],
        "accepted": False,
        "refused": "not_applicable",
        "top": [["long", 0.875], ["short", 0.125]],
        "applicable": 0.375,
        "text_share": 0.25,
        "modality": "title_and_image",
    }
    assert answer["cuff"] == {
        "labels": [],
        "scores": [],
        "accepted": False,
        "accepted_labels": [],
        "refused": "not_applicable",
        "top": [["buttoned", 0.9], ["ribbed", 0.2]],
        "applicable": 0.375,
        "text_share": 0.25,
        "modality": "title_and_image",
    }
    assert answer["category"]["label"] == "shoe" and "applicable" not in answer["category"]
    json.dumps(answer)


def test_where_it_applies_the_answer_is_as_ever_beside_its_chance():
    scores = of_chain([0.5, 0.25, 0.25], [0.125, 0.875])
    (answer,) = predicted(CHAIN, scores)
    (plain,) = predicted(TaskSet(task.model_copy(update={"only_if": None}) for task in CHAIN), scores)
    assert answer["sleeve"].pop("applicable") == 0.75 and answer["cuff"].pop("applicable") == 0.75
    assert answer == plain and answer["sleeve"]["accepted"] and answer["cuff"]["labels"] == ["buttoned"]


def test_a_mismatch_that_refuses_goes_first():
    tasks = TaskSet([CATEGORY, SLEEVE, Mismatch(refuses=True, thresholds=[0.5])])
    scores = np.array([[0.1, 0.1, 0.8, 0.5, 0.5, 0.9], [0.1, 0.1, 0.8, 0.5, 0.5, 0.1]], np.float32)
    refused, other = predicted(tasks, scores)
    assert (refused["sleeve"]["refused"], refused["sleeve"]["labels"]) == ("mismatch", [])
    assert refused["sleeve"]["applicable"] == pytest.approx(0.2)
    assert other["sleeve"]["refused"] == "not_applicable" and other["category"]["accepted"]


@pytest.mark.parametrize(
    ("category", "sleeve", "cuff", "expected"),
    [
        ("shirt", "long", ["ribbed"], ([0, 1, 0], [0, 1], [0, 1])),
        ("shirt", "short", ["ribbed"], ([0, 1, 0], [1, 0], [NOT_ASKED] * 2)),
        ("shoe", "long", ["ribbed"], ([0, 0, 1], [NOT_ASKED] * 2, [NOT_ASKED] * 2)),
        ("shoe", None, None, ([0, 0, 1], [NOT_ASKED] * 2, [NOT_ASKED] * 2)),
        ("dress", None, [], ([1, 0, 0], [MISSING] * 2, [0, 0])),
        (None, "short", None, ([MISSING] * 3, [1, 0], [NOT_ASKED] * 2)),  # who has a label is asked
        (None, None, None, ([MISSING] * 3, [MISSING] * 2, [MISSING] * 2)),
    ],
)
def test_what_is_not_asked_has_no_target(category, sleeve, cuff, expected):
    row = {"id": "p", "category": category, "sleeve": sleeve, "cuff": cuff}
    targets = CHAIN.encode(row)
    assert targets.dtype == np.float32 and targets.tolist() == [*expected[2], *expected[0], *expected[1]]
    kept = CHAIN.asked_only(row)
    unasked = {name for name, own in zip(("sleeve", "cuff"), expected[1:], strict=True) if own[0] == NOT_ASKED}
    assert kept == {name: None if name in unasked else row[name] for name in ("cuff", "category", "sleeve")}


def test_none_of_several_labels_is_known_and_does_not_ask():
    row = {"id": "p", "tags": [], "wear": "holes"}
    assert TAGGED.encode(row).tolist() == [0, 0, 0, NOT_ASKED, NOT_ASKED]
    assert TAGGED.encode(row | {"tags": ["odd", "worn"]}).tolist() == [0, 1, 1, 1, 0]


def conditioned(task: Task, other: str, *labels: str) -> Task:
    return task.model_copy(update={"only_if": Condition(task=other, labels=list(labels))})


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ([CATEGORY, conditioned(SLEEVE, "kind", "x")], "only if kind in x: no such task; there are category, sleeve"),
        (
            [CATEGORY, conditioned(SLEEVE, "category", "dress", "hat", "cap")],
            "task sleeve: only if category in dress, hat, cap: category has no label 'hat', 'cap'",
        ),
        ([conditioned(SLEEVE, "sleeve", "long")], "goes round in a circle (sleeve -> sleeve)"),
        (
            [conditioned(CATEGORY, "cuff", "ribbed"), SLEEVE, CUFF],
            "task category: its condition goes round in a circle (category -> cuff -> sleeve -> category)",
        ),
        (
            [CATEGORY, conditioned(SLEEVE, "mismatch", "mismatch"), Mismatch()],
            "only if mismatch in mismatch: no such task; there are category, sleeve",
        ),
        (
            [CATEGORY, conditioned(Mismatch(), "category", "dress")],
            "task mismatch: it has no labels to be asked for, so it cannot be only if category in dress",
        ),
    ],
)
def test_a_condition_that_does_not_fit_costs_one_line(tasks: list[Task], says: str):
    with pytest.raises(ValueError) as caught:
        TaskSet(tasks)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_condition_of_no_label_is_none():
    with pytest.raises(ValidationError, match="labels"):
        Condition(task="category", labels=[])


def test_it_travels_as_json_and_tasks_without_one_as_before():
    text = (
        '{"tasks":[{"name":"category","kind":"single_label","labels":["dress","shoe"],"thresholds":[]},'
        '{"name":"sleeve","kind":"single_label","labels":["short","long"],"thresholds":[],'
        '"only_if":{"task":"category","labels":["dress"]}}]}'
    )
    held = Held.model_validate_json(text)
    assert held.model_dump_json() == text and pickle.loads(pickle.dumps(held)) == held
    plain = TaskSet(task.model_copy(update={"only_if": None}) for task in held.tasks)
    assert "only_if" not in Held(tasks=plain).model_dump_json()
    # The columns of PROBABILITIES and their names are the same, which is what it pins.
    assert plain.label_set_hash == held.tasks.label_set_hash != TaskSet([CATEGORY, SLEEVE]).label_set_hash


def test_conditions_of_others_go_first():
    plain = TaskSet(task.model_copy(update={"only_if": None}) for task in CHAIN)
    assert plain.with_conditions_of(CHAIN) == CHAIN == CHAIN.with_conditions_of(plain)
    other = TaskSet([CATEGORY, conditioned(SLEEVE, "category", "dress")])
    assert CHAIN.with_conditions_of(other).by_name["sleeve"].only_if.labels == ["dress"]
