"""Which drawings are alike: generated series thinned, duplicates dropped, near-duplicates in groups."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np

from dataset.seen_ids import hash_of

GENERATED, KEPT_OF_GENERATED = 100, 8
MOST_DIFFERENCE = 12
LEAST_CORRELATION = 0.97
BLOCK = 512
SHARES = {"train": 70, "test": 20, "validation": 10}


def thinned(ids: Sequence[str], seed: int) -> list[str]:
    """The ids without most of any series too long to be drawn by hand: names that differ in their numbers only."""
    series: dict[str, list[str]] = {}
    for id in ids:
        series.setdefault(re.sub(r"\d+", "#", id), []).append(id)
    dropped: set[str] = set()
    for members in series.values():
        if len(members) > GENERATED:
            dropped.update(sorted(members, key=lambda id: hash_of(f"{seed}:{id}"))[KEPT_OF_GENERATED:])
    return [id for id in ids if id not in dropped]


def without_duplicates(ids: Sequence[str], digests: Sequence[bytes]) -> list[int]:
    """Places of the drawings to keep, in order: of several alike, the one in the deepest folder, then the first."""
    best: dict[bytes, int] = {}
    for place in sorted(range(len(ids)), key=lambda place: (-ids[place].count("/"), ids[place])):
        best.setdefault(digests[place], place)
    return sorted(best.values())


def series_of(id: str) -> str:
    """A file name without the number it ends with, in its folder: `food/apple_02` and `food/apple1` are one series."""
    path = PurePosixPath(id)
    return str(path.with_name(re.sub(r"[-_ ]*\d+$", "", path.name) or path.name))


def groups(ids: Sequence[str], thumbnails: np.ndarray, series: Callable[[str], str] = series_of) -> list[str]:
    """For each drawing the first id of its group: what is alike by name or image, and what is alike to that.

    Args:
        thumbnails: uint8 [N, H, W, 3].
        series: what ids that are alike by name have in common.
    """
    joined = Joined(len(ids))
    first_of: dict[str, int] = {}
    for place, id in enumerate(ids):
        joined.join(first_of.setdefault(series(id), place), place)
    for one, other in near_duplicates(thumbnails):
        joined.join(one, other)
    return [ids[joined.first(place)] for place in range(len(ids))]


def splits_of(folders: Sequence[str], firsts: Sequence[str], seed: int) -> list[str]:
    """For each drawing its split: whole groups, and about SHARES of every folder.

    The groups of a folder are dealt out, the largest first, each to the split that lacks most.

    Args:
        folders: of the drawings; a group belongs to that of its first one.
        firsts: for each drawing the id that its group is known by.
    """
    sizes = Counter(firsts)
    owners = dict(zip(reversed(firsts), reversed(folders), strict=True))
    dealt: dict[str, Counter[str]] = {folder: Counter() for folder in folders}
    totals = Counter(dict.fromkeys(folders, 0))
    for first, size in sizes.items():
        totals[owners[first]] += size
    split_of: dict[str, str] = {}
    for first in sorted(sizes, key=lambda first: (-sizes[first], hash_of(f"{seed}:{first}"))):
        counts, total = dealt[owners[first]], totals[owners[first]]
        split = max(SHARES, key=lambda name: SHARES[name] * total - 100 * counts[name])
        counts[split] += sizes[first]
        split_of[first] = split
    return [split_of[first] for first in firsts]


def near_duplicates(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of images that differ by MOST_DIFFERENCE grey levels at most and whose values rise and fall together.

    Both matter: thin lines on white hardly differ, and two flags may correlate. Whole numbers in float64 make the
    products exact, whatever the order in which a processor adds.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    size = flat.shape[1]
    sums, squares = flat.sum(1), (flat**2).sum(1)
    spread = size * squares - sums**2
    for start in range(0, len(flat), BLOCK):
        rows = slice(start, start + BLOCK)
        products = flat[rows] @ flat.T
        difference = squares[rows, None] + squares - 2 * products
        common = size * products - sums[rows, None] * sums
        alike = (difference <= size * MOST_DIFFERENCE**2) & (common > 0)
        alike &= common**2 >= LEAST_CORRELATION**2 * spread[rows, None] * spread
        for one, other in np.argwhere(alike):
            if start + one < other:
                yield int(start + one), int(other)


class Joined:
    """Disjoint sets of the numbers below `count`; a set is known by its smallest."""

    def __init__(self, count: int):
        self.parent = list(range(count))

    def first(self, number: int) -> int:
        """The smallest number of the set of `number`."""
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Make the sets of both numbers one."""
        low, high = sorted((self.first(one), self.first(other)))
        self.parent[high] = low
