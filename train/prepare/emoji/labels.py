"""The four tasks of the emoji and each drawing's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dataset.splits import SPLITS
from model.tasks import MultiLabel, SingleLabel, Task
from train.prepare.drawings import COLORS, DrawnImage
from train.prepare.emoji.names import Emoji

LEAST_OF_GROUP, LEAST_OF_KEYWORD = 40, 100


@dataclass(frozen=True)
class Item:
    """A drawing that was read; `id` is `VENDOR/CODE`."""

    id: str
    emoji: Emoji
    image: DrawnImage

    @property
    def keywords(self) -> tuple[str, ...]:
        """English tags."""
        return self.emoji.names["en"].tags


def make_tasks(items: Sequence[Item], splits: Sequence[str]) -> list[Task]:
    """The tasks with the labels that enough of these drawings have.

    Args:
        splits: of the items.
    Raises:
        ValueError: there are too few labels.
    """
    placed = list(zip(items, splits, strict=True))
    groups = frequent(((item.emoji.group, split) for item, split in placed), LEAST_OF_GROUP)
    subgroups = frequent(((item.emoji.subgroup, split) for item, split in placed), LEAST_OF_GROUP)
    keywords = frequent(((word, split) for item, split in placed for word in item.keywords), LEAST_OF_KEYWORD)
    if len(groups) < 2 or len(subgroups) < 2 or not keywords:
        raise ValueError(
            f"of {len(items)} drawings {len(groups)} groups and {len(subgroups)} subgroups have {LEAST_OF_GROUP}"
            f" or more, 2 of each are needed, and {len(keywords)} keywords have {LEAST_OF_KEYWORD}, 1 is needed"
        )
    return [
        SingleLabel(name="group", labels=sorted(groups)),
        SingleLabel(name="subgroup", labels=sorted(subgroups)),
        MultiLabel(name="keywords", labels=keywords),
        SingleLabel(name="color", labels=COLORS),
    ]


def frequent(words: Iterable[tuple[str, str]], least: int) -> list[str]:
    """The words that occur so often at least, and in every split: the most frequent first, equal ones by the alphabet.

    Args:
        words: each time it occurs a word and its split. One without validation products has no threshold.
    """
    counts = Counter(words)
    of_word: dict[str, list[int]] = {}
    for (word, _), count in counts.items():
        of_word.setdefault(word, []).append(count)
    kept = {word: sum(found) for word, found in of_word.items() if len(found) == len(SPLITS) and sum(found) >= least}
    return sorted(kept, key=lambda word: (-kept[word], word))


def labels_of(item: Item, tasks: Sequence[Task]) -> dict[str, str | list[str] | None]:
    """Task -> label. None, which training leaves out, where it is of a group too small or the drawing blank.

    A drawing whose keywords are no labels has an empty list: those who tagged it named none of these.
    """
    group, subgroup, keywords, _ = tasks
    return {
        "group": item.emoji.group if item.emoji.group in group.labels else None,
        "subgroup": item.emoji.subgroup if item.emoji.subgroup in subgroup.labels else None,
        "keywords": [keyword for keyword in keywords.labels if keyword in item.keywords],
        "color": item.image.main_color,
    }
