"""The three tasks of Open Clip Art and each drawing's labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from model.tasks import MultiLabel, SingleLabel, Task
from train.prepare.drawings import COLORS, DrawnImage
from train.prepare.open_clipart.metadata import Metadata

LEAST_OF_CATEGORY = 40
MOST_KEYWORDS = 23
NO_CATEGORY = "unsorted"
SAME_KEYWORD = {
    "buttons": "button",
    "desserts": "dessert",
    "flags": "flag",
    "icons": "icon",
    "mapsym": "map_symbol",
    "mime-types": "mimetypes",
    "signs_and_symbols": "symbol",
    "tools": "tool",
    "transportation": "transport",
}
# They speak of the library, its menus and its collections, not of what a drawing shows.
USELESS_KEYWORDS = frozenset(
    [
        "clip_art",
        "clipart",
        "hash",
        "image",
        "lemon_theme_icon",
        "menu",
        "png",
        "special",
        "svg",
        "theme",
        "united_nations_member",
        "unsorted",
        "work",
    ]
)


@dataclass(frozen=True)
class Item:
    """A drawing that was read; `id` is its path without the ending."""

    id: str
    metadata: Metadata
    image: DrawnImage

    @property
    def folder(self) -> str:
        """What it was sorted into, such as `food/fruit`."""
        return self.id.rpartition("/")[0]

    @property
    def keywords(self) -> list[str] | None:
        """The useful ones in one spelling, none twice; None if nobody gave it any keyword."""
        if self.metadata.keywords is None:
            return None
        known = (SAME_KEYWORD.get(keyword, keyword) for keyword in self.metadata.keywords)
        return [keyword for keyword in dict.fromkeys(known) if keyword not in USELESS_KEYWORDS]


def make_tasks(items: Sequence[Item]) -> list[Task]:
    """The tasks with the labels that these drawings have.

    Raises:
        ValueError: too few folders are full enough, or no keyword is left.
    """
    folders = Counter(item.folder for item in items)
    categories = sorted(name for name, count in folders.items() if count >= LEAST_OF_CATEGORY and name != NO_CATEGORY)
    if len(categories) < 2:
        raise ValueError(
            f"{len(categories)} of {len(folders)} folders hold {LEAST_OF_CATEGORY} different drawings or more,"
            " category needs 2; --source wants the whole of Debian's openclipart-png and openclipart-svg"
        )
    keywords = most_common((keyword for item in items for keyword in item.keywords or []), MOST_KEYWORDS)
    if not keywords:
        raise ValueError(f"none of the {len(items)} drawings has a keyword (dc:subject); --source wants those that do")
    return [
        SingleLabel(name="category", labels=categories),
        MultiLabel(name="keywords", labels=keywords),
        SingleLabel(name="color", labels=COLORS),
    ]


def most_common(words: Iterable[str], most: int) -> list[str]:
    """The words that occur most often, in that order, then in the alphabet's."""
    ranked = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    return [word for word, _ in ranked[:most]]


def labels_of(item: Item, tasks: Sequence[Task]) -> dict[str, str | list[str] | None]:
    """Task -> label. None, which training leaves out, where nothing is known.

    A drawing with keywords of which none is a label has an empty list: its author spoke, and named none of these.
    """
    category, keywords, _ = tasks
    own = item.keywords
    return {
        "category": item.folder if item.folder in category.labels else None,
        "keywords": None if own is None else [keyword for keyword in keywords.labels if keyword in own],
        "color": item.image.main_color,
    }
