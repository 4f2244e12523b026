"""A task as a reviewer's form shows it, and what comes back of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import HTTPException
from starlette.datastructures import FormData

from client.console.catalog import Product
from client.console.decisions import Decision, Labels
from model.tasks import NOT_APPLICABLE, Task, TaskSet

KEYS = "123456789abcdefghijklmnopqrtvwxyz"  # one a label; 0, s and u mean something else
UNTOLD = "untold"  # what is sent where nobody can tell


class Choice(NamedTuple):
    """A label: its place in the task, the key that chooses it, and whether it is chosen at first."""

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
        untold: whether it was decided that nobody can tell, or at first seems not to be asked of such products.
        said: what a model says; None where nobody was asked, or where it is not to be seen.
        given: the data set's labels; None likewise.
        likely: what an audit takes for likelier; None likewise.
        focus: key of the choice where the keyboard starts; None in all tasks but one.
    """

    task: Task
    choices: list[Choice]
    others: list[str]
    typed: str
    untold: bool
    said: Mapping[str, Any] | None
    given: list[str] | None
    likely: str | None
    focus: str | None


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
    fields, unasked = [], tasks.not_asked(product.given)
    for task in tasks:
        said = None if blind or product.said is None else product.said[task.name]
        given = None if blind else product.given[task.name]
        chosen = (said or {}).get("labels") or given or []
        untold = not (blind or chosen) and (task.name in unasked or (said or {}).get("refused") == NOT_APPLICABLE)
        if decided and task.name in decided.labels:
            labels = decided.labels[task.name]
            chosen, untold = labels or [], labels is None
        likely = None if blind else product.likely.get(task.name)
        places = _shown(task, [*chosen, *(given or []), *([likely] if likely else [])], counts[task.name])
        choices = [
            Choice(place, task.labels[place], key, task.labels[place] in chosen and not untold)
            for key, place in zip(KEYS, places, strict=False)
        ]
        others = [label for place, label in enumerate(task.labels) if place not in places]
        typed = ", ".join(label for label in chosen if label in others)
        fields.append(Field(task, choices, others, typed, untold, said, given, likely, None))
    first = next((place for place, field in enumerate(fields) if field.task.name == product.task and not blind), 0)
    fields[first] = fields[first]._replace(focus=_focus(fields[first]))
    return fields


def _focus(field: Field) -> str:
    return next((choice.key for choice in field.choices if choice.chosen), KEYS[0])


def _shown(task: Task, likely: list[str], counts: Mapping[str, int]) -> list[int]:
    """Places of the labels that have a key: all in their order, or the most frequent, so that keys stay what they are,
    and in place of the last ones the likely.
    """
    if len(task.labels) <= len(KEYS):
        return list(range(len(task.labels)))
    frequent = sorted(task.labels, key=lambda label: -counts[label])
    rare = [label for label in dict.fromkeys(likely) if label not in frequent[: len(KEYS)]][: len(KEYS)]
    return [task.labels.index(label) for label in [*frequent[: len(KEYS) - len(rare)], *rare]]


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
    labels = list(dict.fromkeys([*labels, *(_typed(task, typed) if typed else [])]))
    if not task.several_labels and len(labels) != 1:
        raise HTTPException(422, f"{task.name}: choose one label, or that nobody can tell")
    return labels


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
