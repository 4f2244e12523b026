"""A split with wrong titles behind it: what the answer `mismatch` is judged by, and its threshold fitted to."""

from __future__ import annotations

import numpy as np

from model.tasks import MISSING
from train.data import ProductDataset, Sample

EMPTY = 2  # token ids of an empty title: start and end


class WithWrongTitles(ProductDataset):
    """First the split as it is, then all of it again, each product under the title of the one half a split away.

    Complete products have the target of `mismatch`: 0 at first, 1 under another title than their own. Under wrong
    titles they have no other label, so they count for no other task.

    Args:
        original: the split; its tasks have a Mismatch.
    """

    def __init__(self, original: ProductDataset) -> None:
        vars(self).update(vars(original))  # opened once, and one cache
        self.products = self.starts[-1]

    def __len__(self) -> int:
        return 2 * self.products

    def __getitem__(self, index: int) -> Sample:
        sample, is_wrong = super().__getitem__(index % self.products), index >= self.products
        is_complete = all(sample.present) and sample.problem is None
        if is_wrong:
            own, sample.input_ids = sample.input_ids, self._title((index + self.products // 2) % self.products)
            is_complete &= len(sample.input_ids) > EMPTY and not np.array_equal(own, sample.input_ids)
            sample.targets[:], sample.problem = MISSING, None
        if is_complete:
            sample.targets[self.tasks.is_mismatch_L] = float(is_wrong)
        return sample

    def _title(self, index: int) -> np.ndarray:
        """Token ids of a product's title, those of an empty one where it cannot be read."""
        try:
            return self.tokenizer.encode(self.product(index)["title"] or "")
        except ValueError:
            return self.tokenizer.encode("")


def judged_by(split: ProductDataset) -> ProductDataset:
    """The split, or the split with wrong titles where its tasks have a Mismatch."""
    return WithWrongTitles(split) if split.tasks.is_mismatch_C.any() else split
