"""When a task is asked: only of products to which another task gives one of some labels. No torch at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from cma_clip.settings import StrictModel

if TYPE_CHECKING:
    from model.tasks.kinds import Task

APPLIES_FROM = 0.5  # score of a condition


class Condition(StrictModel):
    """`sleeve` only if `category` in `dress`, `shirt`.

    Attributes:
        task: the other one's name.
        labels: of it; one of them is enough.
    """

    task: str
    labels: list[str] = Field(min_length=1)

    def fails(self, labels: Sequence[str] | None) -> bool:
        """Whether it is known not to hold of a product with these labels of the other task; None: nobody knows them."""
        return labels is not None and not set(labels) & set(self.labels)

    def renamed(self, task: str, new: str) -> Condition:
        """With another name for that task."""
        return self.model_copy(update={"task": new}) if self.task == task else self

    def relabelled(self, task: str, old: str, new: str) -> Condition:
        """With another name for a label of that task."""
        labels = [new if label == old else label for label in self.labels]
        return self.model_copy(update={"labels": labels}) if self.task == task else self

    def __str__(self) -> str:
        return f"only if {self.task} in {', '.join(self.labels)}"


def check_conditions(tasks: Mapping[str, Task]) -> None:
    """Hold the tasks' conditions against each other.

    Args:
        tasks: by their names.
    Raises:
        ValueError: a condition names no task that has labels, or no label of it, or goes round in a circle.
    """
    for name, task in tasks.items():
        if task.only_if is None:
            continue
        if not task.is_labelled:
            raise ValueError(f"task {name}: it has no labels to be asked for, so it cannot be {task.only_if}")
        _check(f"task {name}: {task.only_if}", task.only_if, tasks)
        chain = conditions_of(task, tasks)
        if chain[-1].task in (name, *(link.task for link in chain[:-1])):
            circle = " -> ".join([name, *(link.task for link in chain)])
            raise ValueError(f"task {name}: its condition goes round in a circle ({circle})")


def _check(where: str, condition: Condition, tasks: Mapping[str, Task]) -> None:
    other = tasks.get(condition.task)
    if other is None or not other.is_labelled:
        there = ", ".join(name for name, task in tasks.items() if task.is_labelled)
        raise ValueError(f"{where}: no such task; there are {there}")
    if unknown := [label for label in condition.labels if label not in other.labels]:
        raise ValueError(f"{where}: {condition.task} has no label {', '.join(map(repr, unknown))}")


def conditions_of(task: Task, tasks: Mapping[str, Task]) -> list[Condition]:
    """All that have to hold for a task to be asked: its own, that of the task which it names, and so on.

    It ends where a circle closes, which `check_conditions` refuses.
    """
    found: list[Condition] = []
    names = {task.name}
    while task.only_if is not None:
        found.append(task.only_if)
        if task.only_if.task in names or task.only_if.task not in tasks:
            break
        names.add(task.only_if.task)
        task = tasks[task.only_if.task]
    return found
