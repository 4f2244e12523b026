"""A task as a reviewer's form shows it, and what comes back of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import HTTPException
from starlette.datastructures import FormData

from client.console.catalog import Product
from client.console.decisions import Decision, Labels
from model.tasks import Task, TaskSet

KEYS = 9  # labels that have a key of their own
UNTOLD = "untold"  # what is sent where nobody can tell


class Choice(NamedTuple):
    """A label: its place in the task, and the key that chooses it."""

    place: int
    label: str
    key: str
    chosen: bool


class Field(NamedTuple):
    """One task.

    Attributes:
        choices: all its labels, or the likely ones where they are many.
        others: the labels beside `choices`; typed, not chosen.
        typed: what stands there at first.
        untold: whether it was decided that nobody can tell.
        said: what a model says; None where nobody was asked, or where it is not to be seen.
        given: the data set's labels; None likewise.
        first: whether a look is most for this task.
    """

    task: Task
    choices: list[Choice]
    others: list[str]
    typed: str
    untold: bool
    said: Mapping[str, Any] | None
    given: list[str] | None
    first: bool


def fields_of(
    product: Product,
    tasks: TaskSet,
    decided: Decision | None,
    counts: Mapping[str, Mapping[str, int]],
    blind: bool,
) -> list[Field]:
    """The form of a product.

    Args:
        decided: what holds of it by now; it is chosen at first, else what the model says, else the given labels.
        counts: task -> label -> products; where labels are many, the frequent ones have keys.
        blind: nothing is chosen at first, nor seen of what is said and given: the one who looks must not follow it.
    """
    fields = []
    for task in tasks:
        said = None if blind or product.said is None else product.said[task.name]
        given = None if blind else product.given[task.name]
        chosen = (said or {}).get("labels") or given or []
        untold = False
        if decided and task.name in decided.labels:
            labels = decided.labels[task.name]
            chosen, untold = labels or [], labels is None
        places = _shown(task, [*chosen, *(given or [])], counts[task.name])
        choices = [
            Choice(place, task.labels[place], str(key), task.labels[place] in chosen)
            for key, place in enumerate(places, start=1)
        ]
        others = [label for place, label in enumerate(task.labels) if place not in places]
        typed = ", ".join(label for label in chosen if label in others)
        fields.append(Field(task, choices, others, typed, untold, said, given, task.name == product.task))
    if not any(field.first for field in fields):
        fields[0] = fields[0]._replace(first=True)
    return fields


def _shown(task: Task, likely: list[str], counts: Mapping[str, int]) -> list[int]:
    """Places of the labels that have a key: all in their order, or the likely and then the most frequent."""
    if len(task.labels) <= KEYS:
        return list(range(len(task.labels)))
    frequent = sorted(task.labels, key=lambda label: -counts[label])
    return [task.labels.index(label) for label in dict.fromkeys([*likely, *frequent])][:KEYS]


def labels_of(form: FormData, tasks: TaskSet) -> Labels:
    """What was chosen.

    Raises:
        HTTPException: nothing for a task, or what the form does not offer; the message says which.
    """
    return {task.name: _labels_of(form, task) for task in tasks}


def _labels_of(form: FormData, task: Task) -> list[str] | None:
    values = [str(value) for value in form.getlist(task.name)]
    typed = str(form.get(f"{task.name}.other", "")).strip()
    if UNTOLD in values:
        return None
    labels = [_label_at(task, value) for value in values]
    if typed and not (labels and not task.several_labels):
        labels += _typed(task, typed)
    if not task.several_labels and len(labels) != 1:
        raise HTTPException(422, f"{task.name}: choose one label, or that nobody can tell")
    return list(dict.fromkeys(labels))


def _label_at(task: Task, value: str) -> str:
    if not value.isdecimal() or int(value) >= len(task.labels):
        raise HTTPException(422, f"{task.name}: no such choice; load the page again")
    return task.labels[int(value)]


def _typed(task: Task, text: str) -> list[str]:
    """One label, or several with commas between; a label that has a comma is found first."""
    if text in task.labels:
        return [text]
    labels = [part.strip() for part in text.split(",") if part.strip()]
    for label in labels:
        if label not in task.labels:
            raise HTTPException(422, f"{task.name}: {label!r} is none of its {len(task.labels)} labels")
    return labels
