"""The label columns of a catalogue: what the options say, which labels there are, what a cell means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.label_values import folded, label_text, listed
from model.refusal import Code, Refusal
from model.tasks import KINDS, Task, TaskSet, labelled_kinds

RESERVED = ("id", "image", "title", "split")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MOST_LABELS = 100_000


@dataclass(frozen=True)
class TaskColumn:
    """One `--task`.

    Attributes:
        separator: parts the labels of a text cell that may hold several.
        source: the column that it is read from; empty: the one of its name.
        left_out: labels, as cells have them, that count as none.
    """

    name: str
    kind: str
    separator: str = "|"
    source: str = ""
    left_out: frozenset[str] = frozenset()

    @property
    def column(self) -> str:
        return self.source or self.name

    @property
    def task(self) -> type[Task]:
        """What the kind says."""
        return KINDS[self.kind]


@dataclass(frozen=True)
class LabelRules:
    """`missing`: texts, folded, that mean no label. `merge_case`: labels that fold to the same are one."""

    missing: frozenset[str] = frozenset()
    merge_case: bool = False

    def key(self, label: str) -> str:
        """Equal for all spellings of a label."""
        return folded(label) if self.merge_case else label

    def spellings(self, labels: Iterable[str]) -> dict[str, str]:
        """Key -> label, of labels that are given.

        Raises:
            ValueError: two of them mean the same.
        """
        found: dict[str, str] = {}
        for label in labels:
            first = found.setdefault(self.key(label_text(label)), label)
            if first != label:
                raise ValueError(f"labels {first!r} and {label!r} mean the same")
        return found

    def chosen(self, counts: Counter[str]) -> list[str]:
        """The sorted labels of a column; of several spellings the most frequent, then the first in order."""
        best: dict[str, str] = {}
        for label in sorted(counts, key=lambda label: (-counts[label], label)):
            best.setdefault(self.key(label), label)
        return sorted(best.values())

    def rare(self, counts: Counter[str], least: int) -> frozenset[str]:
        """The labels of a column that fewer than `least` rows have, all spellings together."""
        rows: Counter[str] = Counter()
        for label, count in counts.items():
            rows[self.key(label)] += count
        return frozenset(label for label in counts if rows[self.key(label)] < least)


def parse_task(option: str) -> TaskColumn:
    """Read `[NAME=]COLUMN:KIND[:SEPARATOR]`.

    Raises:
        ValueError: it is not of that form, or the name cannot be a task's.
    """
    found = re.fullmatch(rf"(?:({NAME.pattern})=)?(.+?):({'|'.join(labelled_kinds())})(?::(.*))?", option, re.DOTALL)
    if found is None:
        kinds = ", ".join(labelled_kinds())
        raise ValueError(f"--task {option}: expected [NAME=]COLUMN:KIND[:SEPARATOR] with KIND one of {kinds}")
    name, column, kind, separator = found.groups()
    return TaskColumn(task_name(name or column), kind, separator or TaskColumn.separator, column if name else "")


def task_name(name: str) -> str:
    """The name again.

    Raises:
        ValueError: it cannot be a task's.
    """
    if name in RESERVED or not NAME.fullmatch(name):
        raise ValueError(
            f"task {name!r}: its name must be of letters, digits and _, and none of {', '.join(RESERVED)};"
            " --task NAME=COLUMN:KIND gives a column another name"
        )
    return name


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


def make_tasks(columns: Sequence[TaskColumn], labels: Mapping[str, list[str]], rules: LabelRules) -> TaskSet:
    """The tasks of these columns with their labels.

    Raises:
        ValueError: too few labels, or two that mean the same.
    """
    for column in columns:
        least = column.task.least_labels
        if len(labels[column.name]) < least:
            raise ValueError(
                f"task {column.name}: a {column.kind} task needs {least} or more labels,"
                f" its column holds {labels[column.name]}"
            )
        try:
            rules.spellings(labels[column.name])
        except ValueError as error:
            raise ValueError(f"task {column.name}: {error}") from None
    return TaskSet(c.task(name=c.name, kind=c.kind, labels=labels[c.name]) for c in columns)


def labels_of(column: TaskColumn, cell: object, missing: frozenset[str] = frozenset()) -> list[str] | None:
    """The labels in a cell; None if it says nothing: null, NaN, empty, blank, or `missing`.

    An empty list says that the product has none of the labels of a task that may have several.

    Raises:
        Refusal: several labels for a single-label task, or no text or number.
    """
    try:
        values = _values(column, cell)
        texts = [label_text(value) for value in values if value is not None and value == value]  # NaN is not itself
    except ValueError as error:
        raise Refusal(Code.ROW_UNUSABLE, f"{column.name}: a label is {error}, expected text or a number") from None
    said = (text for text in texts if text not in column.left_out and _says_something(text, missing))
    labels = list(dict.fromkeys(said))
    if not column.task.several_labels and len(labels) > 1:
        problem = f"{column.name}: {len(labels)} labels for a single-label task; multi_label takes several"
        raise Refusal(Code.ROW_UNUSABLE, problem)
    return labels if labels or (not values and column.task.several_labels) else None


def _says_something(text: str, missing: frozenset[str]) -> bool:
    """Neither empty, nor of invisible characters only, nor a word for nothing."""
    if text.isascii() and not missing:
        return bool(text)
    return folded(text) not in missing | {""}


def _values(column: TaskColumn, cell: object) -> Sequence[object]:
    if column.task.several_labels and isinstance(cell, str | bytes):
        text = label_text(cell) if isinstance(cell, bytes) else cell
        items = listed(text)
        return text.split(column.separator) if items is None else items
    return cell if isinstance(cell, list) else [cell]
