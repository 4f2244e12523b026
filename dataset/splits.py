"""Train, validation, test: their names, which one a product belongs to, and that none of them share one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.label_values import folded
from dataset.seen_ids import hash_of

SPLITS = ("train", "validation", "test")
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing"),
}
BY_WORD = {word: split for split, words in WORDS.items() for word in words}
EXPECTED = "expected train, validation (or valid, val, dev) or test"
VALUES_SHOWN = 5


@dataclass(frozen=True)
class SplitShares:
    """Shares of validation and test, 0 to 1, and the seed that a product's place depends on."""

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def split_of(self, id: str) -> str:
        """The split of a product; it stays the same when the catalogue grows."""
        place = hash_of(f"{self.seed}:{id}") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


def named_split(cell: str) -> str | None:
    """The split that a cell names, in whatever case and with blanks around it; None if it names none."""
    return BY_WORD.get(folded(cell))


def refuse_lost(column: str, cells: Counter[str], needed: Sequence[str]) -> set[str]:
    """The splits that the cells of a column name; a table that would lose one whole is refused at once.

    Args:
        cells: text as it stands, empty where there is none -> rows.
        needed: splits that must have rows. Some must at least; all, where a cell has a word that names none.
    Raises:
        ValueError: with the column's values.
    """
    named = {split for split in map(named_split, cells) if split is not None}
    if any(named_split(cell) is None and cell.strip() for cell in cells):
        needed = SPLITS if needed else ()
    lost = [split for split in needed if split not in named] or ([] if named else list(SPLITS))
    if lost:
        values = ", ".join(f"{cell!r} {count:,}" for cell, count in cells.most_common(VALUES_SHOWN))
        raise ValueError(
            f"--split-column {column}: no row for {' and '.join(lost)}; its cells are {values}; {EXPECTED}"
        )
    return named


def refuse_leakage(where: Path | str, ids: dict[str, Iterable[str]]) -> None:
    """Refuse a source whose splits share an id: what was trained on would be tested.

    Args:
        ids: split, or the file it comes from -> ids.
    Raises:
        ValueError: with one of the ids and their number.
    """
    seen: dict[str, str] = {}
    shared = []
    for split, members in ids.items():
        for id in set(members):
            if id in seen:
                shared.append((id, seen[id], split))
            seen[id] = split
    if shared:
        id, first, second = min(shared)
        raise ValueError(
            f"{where}: {len(shared)} ids are in two splits, such as {id} in {first} and {second}; "
            "take all files from one release of the data set"
        )
