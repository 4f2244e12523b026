"""Whether a title names the label of its product: by whole words, whatever their case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dataset.format import DatasetInfo
from model.tasks import Task
from train.prepare.apa_mini.titles import COLOR_WORDS, PATTERN_WORDS

# data set -> task -> label -> what titles call it; elsewhere a label is called by its own name, and a label that is
# a path (animals/birds) by the last part of it.
SYNONYMS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "apa_mini": {"color": COLOR_WORDS, "pattern": PATTERN_WORDS}
}
WORD = re.compile(r"[^\W_]+")


class Naming:
    """Knows what titles of a data set call each label.

    Args:
        info: `settings["data_set"]` says whose synonyms hold.
    """

    def __init__(self, info: DatasetInfo) -> None:
        known = SYNONYMS.get(str(info.settings.get("data_set")), {})
        self.patterns = {
            (task.name, label): phrase_pattern(
                known.get(task.name, {}).get(label) or [label.rpartition("/")[2] or label]
            )
            for task in info.tasks
            for label in task.labels
        }

    def names_label(self, product: dict[str, Any], task: Task) -> bool | None:
        """Whether the title names the product's label, or one of its labels; None where it has none."""
        labels = task.labels_in(product[task.name])
        if not labels:
            return None
        return any(self.patterns[task.name, label].search(product["title"] or "") for label in labels)


def phrase_pattern(phrases: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the phrases as whole words, the last in the singular or the plural."""
    parts = [r"[\W_]+".join(_in_any_number(WORD.findall(phrase) or [re.escape(phrase)])) for phrase in phrases]
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(parts)})(?![^\W_])", re.IGNORECASE)


def _in_any_number(words: list[str]) -> list[str]:
    *rest, last = words
    stem = last[:-1] if last.lower().endswith("s") and not last.lower().endswith("ss") else last
    return [*rest, f"{stem}(?:e?s)?"]
