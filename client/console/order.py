"""Which product comes when: in the queue by what a look is worth, in the sample by chance."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from client.console.answers import Answer, accepted_labels, mismatch_of, said_of
from dataset.products import plain
from dataset.review_order import Look, answered, in_turns, look, rarity_of
from model.tasks import TaskSet

# N products


class Doubt(NamedTuple):
    """An audit's: how likely the given label is, and which one is likelier; "" of a label that should not be there."""

    belief: float
    likely: str


Doubts = dict[tuple[str, str], dict[str, Doubt]]  # (split, id) -> task -> the greatest


class Order:
    """Gathers what is known of one product after the other, and says at the end which comes when.

    Args:
        counts: task -> label -> products.
    """

    def __init__(self, tasks: TaskSet, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.tasks, self.rarity = tasks, rarity_of(tasks, counts)
        self.worths: list[float] = []
        self.alike: list[Hashable] = []
        self.drawable: list[bool] = []

    def add(
        self, given: Mapping[str, Sequence[str] | None], answer: Answer | None, doubted: Mapping[str, Doubt]
    ) -> Look:
        """What a look at the next product is for."""
        said = said_of(answer or {})
        beliefs = {task: doubt.belief for task, doubt in doubted.items()}
        unasked = self.tasks.not_asked(given)
        given = {task: labels for task, labels in given.items() if task not in unasked}
        found = look(given, said, beliefs, self.rarity, mismatch_of(answer or {}))
        self.worths.append(found.worth if found.reason else -1.0)
        self.alike.append(answered(given, said))
        self.drawable.append(answer is not None and any(accepted_labels(answer[task.name]) for task in self.tasks))
        return found

    def places(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Int64 [N] twice: places in the order of the queue, equal ones by chance, and which draw of the sample each
        product is; -1 without an accepted answer.
        """
        drawn_N = np.random.default_rng(seed).permutation(len(self.worths))
        mixed_N = np.argsort(drawn_N)
        queue_N = mixed_N[in_turns(np.array(self.worths)[mixed_N], [self.alike[place] for place in mixed_N])]
        return queue_N, np.where(self.drawable, drawn_N, -1)


def read_doubts(folder: Path, tasks: TaskSet) -> Doubts:
    """What an audit doubts.

    Raises:
        ValueError: no audit of these tasks.
    """
    doubts: Doubts = {}
    for task in tasks:
        path = folder / f"doubts-{task.name}.csv"
        if not path.is_file():
            raise ValueError(f"--audit {folder}: no {path.name} in it; cma-clip audit writes one")
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):  # the least believed first
                of_product = doubts.setdefault((line["split"], plain(line["id"])), {})
                of_product.setdefault(task.name, Doubt(float(line["belief"]), plain(line["likely"])))
    return doubts
