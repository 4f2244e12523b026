"""A split whose titles, or images, are of little or no help: exchanged, blank, absent, lying, cut or misspelled."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
from PIL import Image

from model.preprocess import clean_title
from model.tasks import TaskSet
from train.data import ProductDataset, Sample
from train.study.edited_titles import cut, misspelled

# N products, C labels of all tasks, L labels of one task, K tasks

PERTURBATIONS = (
    "titles_shuffled",
    "titles_blank",
    "titles_absent",
    "titles_contradicting",
    "titles_of_a_near_product",
    "titles_cut",
    "titles_misspelled",
    "pictures_shuffled",
    "pictures_blank",
    "pictures_absent",
)
EXCHANGES = ("shuffled", "contradicting", "of_a_near_product")
COLUMNS = {"titles": "title", "pictures": "image"}
NO_DONOR = -1


class NoDonors(ValueError):
    """No product of a split has another one that may give it something."""


class PerturbedDataset(ProductDataset):
    """A split with one modality made irrelevant, or worse. The labels stay those of the product.

    Products that have both a title and an image take part. `shuffled` gives each the title (or image) of another
    one; `contradicting` that of one whose labels differ, `of_a_near_product` that of one whose labels differ in part
    (see `contradicting_donors`, `near_donors`), and products without such a one do not take part. `blank` is an empty
    title, or a white image, that counts as present: the network has to find out by itself that it says nothing.
    `absent` is masked. `cut` and `misspelled` titles are the cleaned ones, changed as train.study.edited_titles says.

    Args:
        original: the split as it is.
        perturbation: one of PERTURBATIONS.
        seed: of the exchange, or of the typos, which hang on it and on the product's id alone.
    Attributes:
        products: those that take part, by their index in the split.
        donors: whose title (or image) each of these gets, where they are exchanged.
        is_exchange: whether they are.
        left_out: products of the split that do not take part.
    Raises:
        NoDonors: no product can take part, as none has a donor.
        ValueError: no such perturbation, or no product can take part, as none has both title and image.
    """

    def __init__(self, original: ProductDataset, perturbation: str, seed: int = 0) -> None:
        vars(self).update(vars(original))  # opened once, and one cache for all perturbations
        if perturbation not in PERTURBATIONS:
            raise ValueError(f"perturbation {perturbation!r}: expected one of {', '.join(PERTURBATIONS)}")
        modality, _, self.change = perturbation.partition("_")
        self.is_exchange = self.change in EXCHANGES
        self.column, self.seed = COLUMNS[modality], seed
        nobody = f"{self.name}: no product can take part in {perturbation}"
        encoded = ((index, self._complete_targets(index)) for index in range(self.starts[-1]))
        targets = {index: targets for index, targets in encoded if targets is not None}
        if not targets:
            raise ValueError(nobody)
        donors = self._choose_donors(np.array(list(targets.values())), np.random.default_rng(seed))
        kept, has_donor = np.array(list(targets), dtype=int), donors != NO_DONOR
        self.products, self.donors = kept[has_donor].tolist(), kept[donors[has_donor]].tolist()
        self.left_out = self.starts[-1] - len(self.products)
        if not self.products:
            raise NoDonors(nobody)
        self.filling: str | bytes = "" if self.column == "title" else b""
        if (self.column, self.change) == ("image", "blank"):
            self.filling = white_image(self.preprocess.image_size)

    def __len__(self) -> int:
        return len(self.products)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if self.change == "blank":
            sample.present = (True, True)
        return sample

    def product(self, index: int) -> dict[str, Any]:
        """The row as it is stored, but for the title or the image."""
        row = super().product(self.products[index])
        value: str | bytes = self.filling
        if self.is_exchange:
            value = super().product(self.donors[index])[self.column]
        elif self.change in ("cut", "misspelled"):
            title = clean_title(row["title"], self.preprocess.max_title_bytes)
            value = cut(title) if self.change == "cut" else misspelled(title, random.Random(f"{self.seed} {row['id']}"))
        return row | {self.column: value}

    def _complete_targets(self, index: int) -> np.ndarray | None:
        """Labels of a product, None where it lacks the title or the image."""
        row = super().product(index)
        try:
            is_complete = row["image"] and clean_title(row["title"] or "", self.preprocess.max_title_bytes)
        except ValueError:  # an unreadable title
            return None
        return self.encode(row) if is_complete else None

    def _choose_donors(self, targets_NC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.change == "shuffled":
            return derangement(len(targets_NC), rng)
        if self.is_exchange:
            choose = contradicting_donors if self.change == "contradicting" else near_donors
            return choose(targets_NC, self.tasks, rng)
        return np.arange(len(targets_NC))


def derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """Another product for each of `count`, each taken once: one cycle through all in random order.

    A single product has no other: NO_DONOR.
    """
    if count == 1:
        return np.array([NO_DONOR])
    order, donors = rng.permutation(count), np.empty(count, dtype=int)
    donors[order] = np.roll(order, 1)
    return donors


def contradicting_donors(targets_NC: np.ndarray, tasks: TaskSet, rng: np.random.Generator) -> np.ndarray:
    """For each product a random one that differs in every task in which both have a label; NO_DONOR without one.

    Multi-label sets differ where they share no label; at least in one task both must have a label.
    The title that it gives may still name no label at all.
    """
    return _donors_by_labels(targets_NC, tasks, rng, are_near=False)


def near_donors(targets_NC: np.ndarray, tasks: TaskSet, rng: np.random.Generator) -> np.ndarray:
    """For each product a random one that agrees with it in at least one task and differs in another; NO_DONOR without.

    Two products agree where they share a label, be it one of several, and differ where both have a label but share
    none. So nobody is near in a data set of one task.
    """
    return _donors_by_labels(targets_NC, tasks, rng, are_near=True)


def _donors_by_labels(targets_NC: np.ndarray, tasks: TaskSet, rng: np.random.Generator, are_near: bool) -> np.ndarray:
    """Of those that differ in a task, one that agrees in another (`are_near`) or in none.

    Products are compared one against all, so memory grows with N, not with its square.
    """
    parts = [has_NL for _, has_NL in tasks.split(np.maximum(targets_NC, 0).astype(np.float32))]
    labelled_KN = np.stack([has_NL.any(axis=1) for has_NL in parts])
    donors = np.full(len(targets_NC), NO_DONOR)
    for product, labelled_K in enumerate(labelled_KN.T):
        agree_KN = np.stack([has_NL @ has_NL[product] > 0 for has_NL in parts])
        differ_KN = labelled_KN & labelled_K[:, None] & ~agree_KN
        others = np.flatnonzero(differ_KN.any(axis=0) & (agree_KN.any(axis=0) == are_near))
        if len(others):
            donors[product] = rng.choice(others)
    return donors


def white_image(size: int) -> bytes:
    """A white PNG of the network's own size, so that nothing is resized."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "white").save(buffer, "PNG")
    return buffer.getvalue()
