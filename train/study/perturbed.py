"""A split in which the titles, or the images, are of no help: exchanged, blank, absent, or telling another label."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from model.preprocess import clean_title
from model.tasks import TaskSet
from train.data import ProductDataset, Sample

# N products, C labels of all tasks, K tasks

PERTURBATIONS = (
    "titles_shuffled",
    "titles_blank",
    "titles_absent",
    "titles_contradicting",
    "pictures_shuffled",
    "pictures_blank",
    "pictures_absent",
)
COLUMNS = {"titles": "title", "pictures": "image"}
NO_DONOR = -1


class PerturbedDataset(ProductDataset):
    """A split with one modality made irrelevant. The labels stay those of the product.

    Products that have both a title and an image take part. `shuffled` gives each the title (or image) of another
    one; `contradicting` that of one whose labels differ (see `contradicting_donors`), and products without such a
    one do not take part. `blank` is an empty title, or a white image, that counts as present: the network has
    to find out by itself that it says nothing. `absent` is masked.

    Args:
        original: the split as it is.
        perturbation: one of PERTURBATIONS.
        seed: of the exchange.
    Attributes:
        products: those that take part, by their index in the split.
        donors: whose title (or image) each of these gets, where they are exchanged.
        left_out: products of the split that do not take part.
    Raises:
        ValueError: no such perturbation, or no product can take part.
    """

    def __init__(self, original: ProductDataset, perturbation: str, seed: int = 0) -> None:
        vars(self).update(vars(original))  # opened once, and one cache for all perturbations
        if perturbation not in PERTURBATIONS:
            raise ValueError(f"perturbation {perturbation!r}: expected one of {', '.join(PERTURBATIONS)}")
        modality, self.change = perturbation.split("_")
        self.column = COLUMNS[modality]
        encoded = ((index, self._complete_targets(index)) for index in range(self.starts[-1]))
        targets = {index: targets for index, targets in encoded if targets is not None}
        donors = self._choose_donors(np.array(list(targets.values())), np.random.default_rng(seed))
        kept, has_donor = np.array(list(targets), dtype=int), donors != NO_DONOR
        self.products, self.donors = kept[has_donor].tolist(), kept[donors[has_donor]].tolist()
        self.left_out = self.starts[-1] - len(self.products)
        if not self.products:
            raise ValueError(f"{self.name}: no product can take part in {perturbation}")
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
        if self.change in ("shuffled", "contradicting"):
            return row | {self.column: super().product(self.donors[index])[self.column]}
        return row | {self.column: self.filling}

    def _complete_targets(self, index: int) -> np.ndarray | None:
        """Labels of a product, None where it lacks the title or the image."""
        row = super().product(index)
        try:
            is_complete = row["image"] and clean_title(row["title"] or "", self.preprocess.max_title_bytes)
        except ValueError:  # an unreadable title
            return None
        return self.tasks.encode(row) if is_complete else None

    def _choose_donors(self, targets_NC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.change == "contradicting":
            return contradicting_donors(targets_NC, self.tasks, rng)
        return derangement(len(targets_NC), rng) if self.change == "shuffled" else np.arange(len(targets_NC))


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
    has_NC = np.maximum(targets_NC, 0).astype(np.float32)
    labelled_NK = np.stack([has_NL.max(axis=1) for _, has_NL in tasks.split(has_NC)], axis=1)
    donors = np.full(len(has_NC), NO_DONOR)
    for product, (has_C, labelled_K) in enumerate(zip(has_NC, labelled_NK, strict=True)):
        others = np.flatnonzero((has_NC @ has_C == 0) & (labelled_NK @ labelled_K > 0))
        if len(others):
            donors[product] = rng.choice(others)
    return donors


def white_image(size: int) -> bytes:
    """A white PNG of the network's own size, so that nothing is resized."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), "white").save(buffer, "PNG")
    return buffer.getvalue()
