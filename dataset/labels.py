"""The label columns of a catalogue: what the options say, which labels there are, what a cell means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset.table import Row, Source
from model.refusal import Code, Refusal
from model.tasks import KINDS, Task, TaskSet

RESERVED = ("id", "image", "title", "split")
MOST_LABELS = 100_000


@dataclass(frozen=True)
class TaskColumn:
    """One `--task`: the column of that name; `separator` parts the labels of a text cell that may hold several."""

    name: str
    kind: str
    separator: str = "|"

    @property
    def task(self) -> type[Task]:
        """What the kind says."""
        return KINDS[self.kind]


def parse_task(option: str) -> TaskColumn:
    """Read `COLUMN:KIND[:SEPARATOR]`.

    Raises:
        ValueError: it is not of that form, or the name cannot be a task's.
    """
    name, _, rest = option.partition(":")
    kind, _, separator = rest.partition(":")
    if kind not in KINDS:
        raise ValueError(f"--task {option}: expected COLUMN:KIND[:SEPARATOR] with KIND one of {', '.join(KINDS)}")
    if name in RESERVED or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ValueError(
            f"--task {option}: the column's name must be of letters, digits and _, and none of {', '.join(RESERVED)}"
        )
    return TaskColumn(name, kind, separator or TaskColumn.separator)


def read_label_file(option: str, tasks: list[TaskColumn]) -> tuple[str, list[str]]:
    """Read `TASK=FILE`, one label a line, in the order of the network's outputs.

    Raises:
        ValueError: no such task or file, or a label repeats.
    """
    name, _, path = option.partition("=")
    if name not in [task.name for task in tasks]:
        raise ValueError(f"--labels {option}: expected TASK=FILE with TASK given by --task")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--labels {option}: cannot be read ({error})") from None
    labels = [line.strip() for line in lines if line.strip()]
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"--labels {option}: {repeated} stand there more than once")
    return name, labels


def make_tasks(source: Source, columns: list[TaskColumn], known: dict[str, list[str]]) -> tuple[TaskSet, int]:
    """The tasks with their labels, and the number of rows: the label columns are read at most once.

    Args:
        known: task -> labels that need not be looked for.
    Raises:
        ValueError: too few labels, or so many that the column cannot be one of labels.
    """
    unknown = [column for column in columns if column.name not in known]
    found, total = _discover(source, unknown) if unknown else ({}, source.count())
    known = known | found
    for column in columns:
        _check_labels(column, known[column.name])
    return TaskSet(c.task(name=c.name, kind=c.kind, labels=known[c.name]) for c in columns), total


def labels_of(column: TaskColumn, cell: object) -> list[str]:
    """The labels in a cell; none if it is null, NaN, empty or blank.

    Raises:
        Refusal: several labels for a single-label task, or no text or number.
    """
    if column.task.several_labels and isinstance(cell, str):
        cell = cell.split(column.separator)
    values = cell if isinstance(cell, list) else [cell]
    values = [value for value in values if value is not None and value == value]  # NaN differs from itself
    strange = [value for value in values if not isinstance(value, str | int | float)]
    if strange:
        problem = f"{column.name}: a label is {type(strange[0]).__name__}, expected text or a number"
        raise Refusal(Code.ROW_UNUSABLE, problem)
    texts = [str(value).strip() for value in values]
    labels = list(dict.fromkeys(text for text in texts if text))
    if not column.task.several_labels and len(labels) > 1:
        raise Refusal(Code.ROW_UNUSABLE, f"{column.name}: {len(labels)} labels for a single-label task")
    return labels


def _discover(source: Source, columns: list[TaskColumn]) -> tuple[dict[str, list[str]], int]:
    """Read the label columns once: task -> sorted labels, and the number of rows."""
    found: dict[str, set[str]] = {column.name: set() for column in columns}
    total = 0
    for row in source.rows(list(found)):
        total += 1
        if isinstance(row, Row):
            _collect(row, columns, found)
    return {name: sorted(labels) for name, labels in found.items()}, total


def _collect(row: Row, columns: Iterable[TaskColumn], found: dict[str, set[str]]) -> None:
    for column in columns:
        try:
            found[column.name].update(labels_of(column, row.cells[column.name]))
        except Refusal:
            continue  # the second pass rejects this row and says why
        if len(found[column.name]) > MOST_LABELS:
            raise ValueError(f"column {column.name} holds more than {MOST_LABELS:,} labels; is it one of labels?")


def _check_labels(column: TaskColumn, labels: list[str]) -> None:
    least = column.task.least_labels
    if len(labels) < least:
        raise ValueError(
            f"task {column.name}: a {column.kind} task needs {least} or more labels, its column holds {labels}"
        )
