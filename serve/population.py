"""Whether a server's last answers are those of validation: the population stability index of each task."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from model.reference import NONE, WATCHED, Kind, Reference

# A counter's name and its labels.
Key = tuple[str, tuple[tuple[str, str], ...]]
# What each of them counts, and by which of its labels.
COUNTED: dict[str, tuple[Kind, str]] = {
    "cma_clip_answers_total": ("labels", "label"),
    "cma_clip_unlabelled_total": ("labels", ""),
    "cma_clip_score_bins_total": ("scores", "bin"),
    "cma_clip_text_share_bins_total": ("text_share", "bin"),
}
BLOCK, BLOCKS = 1_000, 10  # products of a block, and blocks of the window: the last 9,000 to 10,000 answers
LEAST = 1_000  # products, before which nothing is said
RARE = 3.09  # standard normal quantile: chance reaches what is told once in a thousand times


class Stability(NamedTuple):
    """value: as `stability_index`. by_chance: what it would rarely be above if nothing had changed."""

    value: float
    by_chance: float


class Population:
    """The last answers of one process. It holds BLOCKS counts by label and bin, however much comes.

    Args:
        reference: of the bundle.
    """

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._blocks: deque[Counter[tuple[str, Kind, str]]] = deque([Counter()], maxlen=BLOCKS)
        self._in_block = 0

    def shown(self, task: str, label: str) -> str:
        """The label that an answer is counted under."""
        return self.reference.tasks[task].shown(label)

    def take(self, counted: Mapping[Key, float]) -> None:
        """Add what the counters of a step have increased by."""
        if self._in_block >= BLOCK:
            self._blocks.append(Counter())
            self._in_block = 0
        first = next(iter(self.reference.tasks))
        for (name, labels), amount in counted.items():
            if name in COUNTED:
                said, (kind, label) = dict(labels), COUNTED[name]
                self._blocks[-1][said["task"], kind, said.get(label, NONE)] += int(amount)
                self._in_block += int(amount) if (said["task"], kind) == (first, "text_share") else 0

    def stability(self) -> dict[tuple[str, Kind], Stability]:
        """Of each task and kind; nothing before LEAST products were answered."""
        window = sum(self._blocks, Counter())
        told: dict[tuple[str, Kind], Stability] = {}
        for name, task in self.reference.tasks.items():
            products = sum(window[name, "text_share", place] for place in task.counts("text_share"))
            products_before = sum(task.text_share)  # a task that was added may have been counted on others
            if products < LEAST or not products_before:
                continue
            for kind in WATCHED:
                before = task.counts(kind)
                now = np.array([window[name, kind, place] for place in before], dtype=float)
                then = np.array([*before.values()], dtype=float)
                # Products that a task is not asked of have no score.
                sizes = (now.sum(), then.sum()) if kind == "scores" else (products, products_before)
                if min(sizes):
                    told[name, kind] = stability(now, then, *sizes)
        return told


def stability(now: np.ndarray, before: np.ndarray, products: float, products_before: float) -> Stability:
    """Of counts by bin, from so many products each."""
    bins = int(np.count_nonzero(now + before))
    return Stability(stability_index(now, before), by_chance(bins, products, products_before))


def stability_index(now: np.ndarray, before: np.ndarray) -> float:
    """Σ (p - q) ln(p / q) over the shares p of now and q of before: Jeffreys' divergence (1946), in credit scoring the
    population stability index (Siddiqi, Credit Risk Scorecards, 2006: from 0.1 on a shift, from 0.25 on a large one).

    An empty bin counts as half a product, or as the other side's share where that is less: then it might well be empty.
    """
    shares = [counts / max(counts.sum(), 1) for counts in (now, before)]
    halves = [0.5 / max(counts.sum(), 1) for counts in (now, before)]
    p, q = (
        np.where(own > 0, own, np.minimum(half, other))
        for own, other, half in zip(shares, reversed(shares), halves, strict=True)
    )
    filled = (p > 0) & (q > 0)
    return float(((p - q)[filled] * np.log(p[filled] / q[filled])).sum())


def by_chance(bins: int, products: float, products_before: float) -> float:
    """What the index of two samples of one population exceeds once in a thousand times.

    It is distributed as (1 / n + 1 / m) χ² with bins - 1 degrees of freedom (Yurdakul, Statistical Properties of
    Population Stability Index, 2018); χ²'s quantile is Wilson and Hilferty's (1931). With few
    products a bin it is more often: thirty times in a thousand of 200 equal bins, of 1,000 products and of 3,000.
    """
    freedom = max(bins - 1, 1)
    spread = 2 / (9 * freedom)
    return (1 / products + 1 / products_before) * freedom * (1 - spread + RARE * math.sqrt(spread)) ** 3
