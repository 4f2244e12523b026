"""Train, validation, test: their names, which one a product belongs to, and that none of them share one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dataset.seen_ids import hash_of

SPLITS = ("train", "validation", "test")


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
