"""Answers of tasks that are not asked of every product, against counting product by product."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor

from model.acceptance import Rule
from model.tasks import MISSING, NOT_ASKED, Condition, MultiLabel, SingleLabel, TaskSet
from train.acceptance import GRID, STARTS, fit_acceptance
from train.answers import UNSCORED, answers_by_task, applicability
from train.class_table import class_table, confusion_matrix
from train.losses import classification_losses
from train.metrics import applicability_lines, task_metrics
from train.report.before import changes, hold_against, rows_of, turned
from train.report.content import Told, calibration, confusions, of_task
from train.temperature import fit_temperatures
from train.thresholds import fit_thresholds, most_at_precision

CATEGORY = SingleLabel(name="category", labels=["dress", "shirt", "shoe"])
ONLY_IF = Condition(task="category", labels=["dress", "shirt"])
SLEEVE = SingleLabel(name="sleeve", labels=["short", "long"], only_if=ONLY_IF)
DETAILS = MultiLabel(name="details", labels=["belt", "lace"], only_if=ONLY_IF)
TASKS = TaskSet([CATEGORY, SLEEVE, DETAILS])
PLAIN = TaskSet(task.model_copy(update={"only_if": None}) for task in TASKS)
COUNT = 500


def drawn(seed: int = 0) -> tuple[Tensor, list[dict[str, Any]]]:
    """Logits that are often right, and rows of which some lack labels."""
    rng = np.random.default_rng(seed)
    logits_NC, rows = rng.normal(size=(COUNT, 7)), []
    for n in range(COUNT):
        category, sleeve = rng.integers(0, 3), rng.integers(0, 2)
        has_N = rng.random(2) < 0.4
        logits_NC[n, category] += 2
        logits_NC[n, 3 + sleeve] += 2
        logits_NC[n, 5:] += 3 * has_N - 1.5
        details = [label for label, has in zip(DETAILS.labels, has_N, strict=True) if has]
        row = {"id": n, "category": CATEGORY.labels[category], "sleeve": SLEEVE.labels[sleeve], "details": details}
        unknown = rng.random(3) < 0.1
        rows.append(row | {task.name: None for task, is_unknown in zip(TASKS, unknown, strict=True) if is_unknown})
    return torch.from_numpy(logits_NC).float(), rows


LOGITS, ROWS = drawn()
TARGETS = torch.from_numpy(np.stack([TASKS.encode(row) for row in ROWS]))


def served(logits_NC: Tensor, tasks: TaskSet) -> list[dict[str, dict[str, Any]]]:
    """What a caller reads."""
    share, present = np.zeros((len(logits_NC), len(tasks)), np.float32), np.ones((len(logits_NC), 2), bool)
    return tasks.predictions(tasks.scores(logits_NC.numpy()), share, present)


def is_asked(row: dict[str, Any]) -> bool | None:
    return None if row["category"] is None else row["category"] in ONLY_IF.labels


def judged(name: str, tasks: TaskSet) -> list[tuple[int, set[str], dict[str, Any]]]:
    """Place, true labels and answer of each product that a conditioned task is judged by: it has a label and is not
    known not to be asked, or is not and gets an answer all the same.
    """
    found = []
    for place, (row, answers) in enumerate(zip(ROWS, served(LOGITS, tasks), strict=True)):
        answer, true = answers[name], TASKS.by_name[name].labels_of(row)
        if is_asked(row) is False:
            true = []
            if answer["refused" if "refused" in answer else "accepted"] == "not_applicable":
                continue
        if true is not None:
            found.append((place, set(true), answer))
    return found


@pytest.mark.parametrize("name", ["sleeve", "details"])
@pytest.mark.parametrize("tasks", [TASKS, PLAIN], ids=["gated", "plain"])
def test_answers_are_those_that_a_caller_reads(name: str, tasks: TaskSet):
    found = judged(name, tasks)
    answers = next(one for one in answers_by_task(LOGITS, TARGETS, tasks) if one.task.name == name)
    labels = np.array(answers.task.labels)
    assert answers.place_N.tolist() == [place for place, _, _ in found] and 100 < len(found) < COUNT
    assert [set(labels[of]) for of in answers.answered_NL.numpy()] == [set(said["labels"]) for _, _, said in found]
    assert [set(labels[of]) for of in answers.targets_NL.numpy()] == [true for _, true, _ in found]
    told_N = [said.get("refused") == "not_applicable" for _, _, said in found]
    assert (answers.scores_NL == UNSCORED).all(dim=1).tolist() == told_N and any(told_N) == (tasks is TASKS)
    right = [true == set(said["labels"]) and not told for (_, true, said), told in zip(found, told_N, strict=True)]
    assert answers.right().tolist() == right
    accepted = [(said["accepted"], said["accepted"] and set(said["labels"]) <= true) for _, true, said in found]
    assert answers.accepted() == tuple(sum(of) for of in zip(*accepted, strict=True))


def counted(found: list[tuple[int, set[str], dict[str, Any]]], least: float) -> tuple[int, int]:
    """How many a threshold accepts, and how many of them wrongly."""
    taken = [(true, said) for _, true, said in found if said["labels"] and said["score"] >= least]
    return len(taken), sum(not set(said["labels"]) <= true for true, said in taken)


def by_definition(found: list[tuple[int, set[str], dict[str, Any]]], rule: Rule) -> float | None:
    """The promise threshold by threshold (train.acceptance): from each start downwards, while a test rejects."""
    answered, lowest = sum(bool(said["labels"]) for *_, said in found), None
    of_grid = [counted(found, float(least)) for least in GRID]
    for share in STARTS:
        place = next(n for n, (accepted, _) in enumerate(of_grid) if accepted >= share * answered)
        while place < len(GRID):
            accepted, wrong = of_grid[place]
            test = binomtest(wrong, accepted, 1 - rule.precision, alternative="less")
            if test.pvalue > (1 - rule.confidence) / len(STARTS):
                break
            lowest = min(GRID[place], GRID[0] if lowest is None else lowest)
            place += 1
    return lowest


def test_a_promise_counts_what_is_answered_and_not_asked_as_wrong():
    gated, plain = (list(answers_by_task(LOGITS, TARGETS, tasks))[1] for tasks in (TASKS, PLAIN))
    rule, found = Rule(precision=0.85), judged("sleeve", TASKS)
    acceptance = fit_acceptance(gated, rule)
    (threshold, _) = acceptance.thresholds
    assert 0 < threshold == by_definition(found, rule) < 1
    accepted, wrong = counted(found, threshold)
    assert (acceptance.products, acceptance.accepted, acceptance.right) == (len(found), accepted, accepted - wrong)
    unasked = [n for n, _, said in found if is_asked(ROWS[n]) is False and said["score"] >= threshold]
    assert wrong > len(unasked) > 5
    # Without the condition, where a third of all is not asked, nothing can be promised.
    assert (
        fit_acceptance(plain, rule).thresholds == [None, None] and by_definition(judged("sleeve", PLAIN), rule) is None
    )


def test_metrics_against_counting():
    metrics = task_metrics(LOGITS, torch.zeros(COUNT, 3), TARGETS, TASKS)["sleeve"]
    found = judged("sleeve", TASKS)
    right = sum(set(said["labels"]) == true for _, true, said in found)
    assert metrics["products"] == len(found) and metrics["accuracy"] == pytest.approx(right / len(found))
    f1 = []
    for label in SLEEVE.labels:
        hits = sum(label in true and label in said["labels"] for _, true, said in found)
        f1.append(2 * hits / sum((label in true) + (label in said["labels"]) for _, true, said in found))
    assert metrics["macro_f1"] == pytest.approx(np.mean(f1))
    having = sum(bool(true) for _, true, _ in found)
    best = 0
    for least in {said["score"] for _, _, said in found if said["labels"]}:
        accepted, wrong = counted(found, least)
        if accepted - wrong >= 0.9 * accepted:
            best = max(best, accepted - wrong)
    assert metrics["recall_at_90_precision"] == pytest.approx(best / having) and best > 0
    scored = [(said["score"], set(said["labels"]) == true) for _, true, said in found if said["labels"]]
    gaps = np.zeros(15)
    for score, is_right in scored:
        gaps[min(int(score * 15), 14)] += score - is_right
    assert metrics["calibration_error"] == pytest.approx(np.abs(gaps).sum() / len(scored), abs=1e-5)
    assert metrics["accepted"] == pytest.approx(len(scored) / len(found))


def test_how_often_not_applicable_is_right():
    told = [answer["sleeve"].get("refused") == "not_applicable" for answer in served(LOGITS, TASKS)]
    # Whose category nobody knows is asked where it has a label.
    asked = [True if is_asked(row) is None and row["sleeve"] else is_asked(row) for row in ROWS]
    pairs = [(a, t) for a, t in zip(asked, told, strict=True) if a is not None]
    unasked, said = sum(not a for a, _ in pairs), sum(t for _, t in pairs)
    rightly = sum(t and not a for a, t in pairs)
    found = applicability(LOGITS, TARGETS, TASKS)
    assert found["sleeve"] == (len(pairs), unasked, said, rightly) and set(found) == {"sleeve", "details"}
    assert len(pairs) < COUNT and said > rightly > 50 and unasked > rightly
    metrics = task_metrics(LOGITS, torch.zeros(COUNT, 3), TARGETS, TASKS)
    assert metrics["sleeve"]["not_applicable_precision"] == rightly / said
    assert metrics["sleeve"]["not_applicable_recall"] == rightly / unasked
    assert "not_applicable" not in metrics["category"]
    line, _ = applicability_lines(metrics)
    assert line == (
        f"sleeve: told not applicable {said} times, {rightly / said:.1%} rightly; {rightly / unasked:.1%} of"
        f" {unasked} are found"
    )


def test_the_best_f1_knows_of_labels_that_are_told_not_applicable():
    (*_, details) = fit_thresholds(LOGITS, TARGETS, TASKS)
    answers = list(answers_by_task(LOGITS, TARGETS, TASKS))[2]
    for label in range(2):
        scores, right = answers.scores_NL[:, label], answers.targets_NL[:, label]
        assert right[scores == UNSCORED].any()

        def f1(least: float, scores: Tensor = scores, right: Tensor = right) -> float:
            said = scores >= least
            return 2 * int((said & right).sum()) / int(said.sum() + right.sum())

        best = max(f1(least) for least in scores[scores != UNSCORED].tolist())
        assert f1(details.thresholds[label]) == pytest.approx(best) and details.thresholds[label] > 0


def test_thresholds_are_fitted_where_those_before_let_a_task_be_asked():
    """A first pass asks `care` of what reaches 0.5, a later one of what reaches the threshold that was fitted."""
    care = SingleLabel(name="care", labels=["hand", "machine"], only_if=Condition(task="details", labels=["lace"]))
    tasks = TaskSet([CATEGORY, DETAILS.model_copy(update={"only_if": None}), care])
    logits_NC = torch.cat([LOGITS[:, :3], LOGITS[:, 5:] - 1, LOGITS[:, 3:5]], dim=1)  # lace is scored too low
    rows = [row | {"care": care.labels[row["sleeve"] == "long"]} for row in ROWS]
    targets_NC = torch.from_numpy(np.stack([tasks.encode(row) for row in rows]))
    fitted = fit_thresholds(logits_NC, targets_NC, tasks)
    assert fitted[1].thresholds[1] < 0.4
    asked = TaskSet([CATEGORY, fitted[1], care])
    *_, answers = answers_by_task(logits_NC, targets_NC, asked)
    scores, right = (array.flatten() for array in answers.claims())
    assert fitted[2].thresholds == [most_at_precision(scores, right)[1]]
    *_, before = answers_by_task(logits_NC, targets_NC, tasks)
    assert fitted[2].thresholds != [most_at_precision(*(array.flatten() for array in before.claims()))[1]]


def test_training_does_not_see_what_is_not_asked():
    logits = LOGITS.clone().requires_grad_()
    sums_K, counts_K = classification_losses(logits, TARGETS, TASKS)
    missing = TARGETS.where(TARGETS != NOT_ASKED, MISSING)
    again_K, same_K = classification_losses(LOGITS, missing, TASKS)
    assert torch.equal(sums_K, again_K) and counts_K.tolist() == same_K.tolist()
    labelled = sum(row["sleeve"] is not None and is_asked(row) is not False for row in ROWS)
    assert counts_K[1] == labelled
    sums_K.sum().backward()
    unasked_N = TARGETS[:, 3] == NOT_ASKED
    assert unasked_N.sum() > 100 and not logits.grad[unasked_N, 3:].any() and logits.grad[~unasked_N, 3:].any()
    temperatures = [[task.temperature for task in fit_temperatures(LOGITS, of, TASKS)] for of in (TARGETS, missing)]
    assert temperatures[0] == temperatures[1]


def test_tables_leave_out_what_has_no_label_and_the_report_names_it():
    sleeve = list(answers_by_task(LOGITS, TARGETS, TASKS))[1]
    found = judged("sleeve", TASKS)
    both = [(true, said) for _, true, said in found if true and said["labels"]]
    assert sum(map(sum, confusion_matrix(sleeve))) == len(both) < len(found)
    assert sum(row["answered"] for row in class_table(sleeve)) == sum(bool(said["labels"]) for _, _, said in found)
    told = Told(sleeve, np.zeros(len(found)), np.full(len(found), -1))
    pairs = {(pair["true"], pair["said"]): pair["count"] for pair in confusions(told)}
    expected = Counter(
        (next(iter(true), "not applicable"), said["label"] or "not applicable") for _, true, said in found
    )
    assert pairs == {pair: count for pair, count in expected.items() if pair[0] != pair[1]}
    assert pairs["not applicable", "short"] > 0 and pairs["short", "not applicable"] > 0
    assert sum(count for *_, count in calibration(*sleeve.claims())) == sum(
        bool(said["labels"]) for _, _, said in found
    )
    page = of_task(told)
    assert page["accepted"] == pytest.approx(sum(said["accepted"] for *_, said in found) / len(found))
    assert not set(page["least_sure"]) & {place for place, _, said in found if not said["labels"]}


def test_a_bundle_without_the_condition_is_held_against_one_with_it_on_the_same_products():
    (before, _), (after, _) = (list(answers_by_task(LOGITS, TARGETS, tasks))[1:] for tasks in (PLAIN, TASKS))
    by_place = [{place: (true, said) for place, true, said in judged("sleeve", tasks)} for tasks in (PLAIN, TASKS)]
    places = sorted(set(by_place[0]) | set(by_place[1]))
    is_right = [
        {place: place not in of or (set(of[place][1]["labels"]) == of[place][0]) for place in places} for of in by_place
    ]
    which = turned(before, after)
    said = [{place: of[place][1]["labels"] if place in of else [] for place in places} for of in by_place]
    others = [n for n in places if not is_right[0][n] and not is_right[1][n] and said[0][n] != said[1][n]]
    assert which.products == len(places) and which.other.tolist() == others != []
    assert which.better.tolist() == [n for n in places if is_right[1][n] and not is_right[0][n]] != []
    assert which.worse.tolist() == [n for n in places if is_right[0][n] and not is_right[1][n]] != []
    old_M, new_M = rows_of(before, after)
    assert (old_M >= 0).all() and (new_M >= 0).sum() == len(after.place_N) < len(places)
    for change, figure in zip(changes(before, after), ("accuracy", "macro_f1", "recall_at_90_precision"), strict=False):
        values = [
            task_metrics(LOGITS, torch.zeros(COUNT, 3), TARGETS, tasks)["sleeve"][figure] for tasks in (PLAIN, TASKS)
        ]
        assert [change.before, change.after] == pytest.approx(values)
        assert change.low < change.difference < change.high
    # All was accepted, rightly or not; now what is wrongly told not applicable is not.
    held = hold_against("old", [before], [after]).changed["sleeve"]
    assert [one.figure for one in held if one.is_worse()] == ["accepted"] and held[0].is_sure and held[5].is_sure
