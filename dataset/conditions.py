"""Which tasks of a catalogue are asked of which products: what the options say, and labels that contradict them."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from dataset.label_values import label_text
from dataset.labels import LabelRules
from dataset.products import Reject
from dataset.rows import UnreadProduct
from model.tasks import Condition, TaskSet


def parse_conditions(options: Sequence[Sequence[str]], names: Sequence[str]) -> dict[str, Condition]:
    """Read `TASK OTHER LABEL [LABEL ...]`, each a word of the command line.

    Args:
        names: of the catalogue's tasks.
    Raises:
        ValueError: it is not of that form, names no task, or says two things of one.
    """
    found: dict[str, Condition] = {}
    for words in options:
        option = f"--only-if {shlex.join(words)}"
        if len(words) < 3:
            raise ValueError(
                f"{option}: expected TASK OTHER LABEL, the labels of the task OTHER that TASK is asked for"
            )
        task, other, *labels = words
        if unknown := [name for name in (task, other) if name not in names]:
            raise ValueError(f"{option}: no task {unknown[0]}; there are {', '.join(names)}")
        if task in found:
            raise ValueError(f"{option}: {task} is {found[task]} already; name all labels in one option")
        found[task] = Condition(task=other, labels=labels)
    return found


def with_conditions(tasks: TaskSet, conditions: Mapping[str, Condition], rules: LabelRules) -> TaskSet:
    """The tasks, those with a condition asked by it; a label may be spelled in any way that `rules` take for one.

    Raises:
        ValueError: a condition does not fit the tasks.
    """
    by_name = tasks.by_name
    spelled = {}
    for name, condition in conditions.items():
        known = rules.spellings(by_name[condition.task].labels)
        labels = [known.get(rules.key(label_text(label)), label) for label in condition.labels]
        spelled[name] = condition.model_copy(update={"labels": list(dict.fromkeys(labels))})
    return TaskSet(task.model_copy(update={"only_if": spelled.get(task.name, task.only_if)}) for task in tasks)


def without_unasked(
    rows: Iterable[UnreadProduct | Reject], tasks: TaskSet, dropped: Counter[str]
) -> Iterator[UnreadProduct | Reject]:
    """The rows, without labels of tasks that are known not to be asked of them.

    Args:
        dropped: task -> rows that had some; is added to.
    """
    for row in rows:
        if isinstance(row, UnreadProduct):
            labels = row.product.labels
            asked = tasks.asked_only(labels)
            dropped.update(name for name, value in asked.items() if labels[name] and not value)
            row = replace(row, product=replace(row.product, labels=asked))
        yield row


def said_of_unasked(tasks: TaskSet, dropped: Counter[str]) -> list[str]:
    """For the summary: how many labels contradict a condition."""
    return [
        f"{task.name}: {dropped[task.name]:,} rows have a label and are not asked for one ({task.only_if}); dropped"
        for task in tasks
        if dropped[task.name]
    ]
