"""What the summary says of labels that look wrong: named, with the option that mends it."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from dataset.format import DatasetInfo
from dataset.label_values import MISSING_WORDS, folded, listed
from model.tasks import Task

SHOWN = 5
SEPARATORS = ("|", ",", ";", "/")


def remarks(info: DatasetInfo, dropped: dict[str, list[str]]) -> list[str]:
    """Lines about splits and labels.

    Args:
        dropped: task -> labels that only rejected rows have.
    """
    lines = []
    for task in info.tasks:
        counts = {str(name): Counter(split.label_counts[task.name]) for name, split in info.splits.items()}
        found = [*_spellings(task, counts), *_missing(task, counts), *_several(task, counts), *_unseen(task, counts)]
        if dropped.get(task.name):
            found.append(f"labels of rejected rows only are no outputs: {some_of(map(repr, dropped[task.name]))}")
        lines += [f"{task.name}: {line}" for line in found]
    if "train" in info.splits and "validation" not in info.splits:
        lines.append("no product for validation: training needs some")
    return lines


def _spellings(task: Task, counts: dict[str, Counter[str]]) -> list[str]:
    groups = defaultdict(list)
    for label in task.labels:
        groups[folded(label)].append(f"{label!r} {_total(counts, label):,}")
    alike = [" = ".join(group) for group in groups.values() if len(group) > 1]
    return [f"labels differ in case or blanks only: {some_of(alike)}; --merge-case makes them one"] if alike else []


def _missing(task: Task, counts: dict[str, Counter[str]]) -> list[str]:
    words = [label for label in task.labels if folded(label) in MISSING_WORDS]
    if not words:
        return []
    shown = some_of(f"{label!r} {_total(counts, label):,}" for label in words)
    return [f"labels that may mean none: {shown}; --missing-values {shlex.join(words)} takes them as no label"]


def _several(task: Task, counts: dict[str, Counter[str]]) -> list[str]:
    """Labels that share parts with others are several in one: not any text that happens to hold a comma."""
    if not task.several_labels and (lists := [label for label in task.labels if listed(label) is not None]):
        return [f"labels are lists: {some_of(map(repr, lists))}; --task {task.name}:multi_label reads them"]
    for separator in SEPARATORS:
        parts = {label: [part.strip() for part in label.split(separator)] for label in task.labels}
        labels_with = Counter(part for found in parts.values() for part in set(found))
        joined = [label for label, found in parts.items() if len(found) > 1 and all(found)]
        if any(labels_with[part] > 1 for label in joined for part in parts[label]):
            shown = some_of(f"{label!r} {_total(counts, label):,}" for label in joined)
            option = shlex.quote(f"{task.name}:multi_label:{separator}")
            return [f"labels look like several in one: {shown}; --task {option} parts them"]
    return []


def _unseen(task: Task, counts: dict[str, Counter[str]]) -> list[str]:
    lines = []
    for name in ("train", "validation"):
        if name in counts and not counts[name].total():
            lines.append(f"no {name} product has a label")
    unseen = [label for label in task.labels if "train" in counts and not counts["train"][label]]
    if unseen and len(unseen) < len(task.labels):
        lines.append(f"no train product has {some_of(map(repr, unseen))}")
    return lines


def _total(counts: dict[str, Counter[str]], label: str) -> int:
    return sum(counter[label] for counter in counts.values())


def some_of(texts: Iterable[str]) -> str:
    found: Sequence[str] = list(texts)
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else "")
