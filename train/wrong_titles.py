"""A split with wrong titles behind it: what the answer `mismatch` is judged by, and its threshold fitted to."""

from __future__ import annotations

import numpy as np

from model.tasks import MISSING
from train.data import ProductDataset, Sample


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
            donor = super().__getitem__((index + self.products // 2) % self.products)
            is_another = donor.problem is None and donor.present[0]
            is_complete &= is_another and not np.array_equal(donor.input_ids, sample.input_ids)
            sample.input_ids, sample.problem = donor.input_ids, None
            sample.targets[:] = MISSING
        if is_complete:
            sample.targets[self.tasks.is_mismatch_C] = float(is_wrong)
        return sample


def judged_by(split: ProductDataset) -> ProductDataset:
    """The split, or the split with wrong titles where its tasks have a Mismatch."""
    return WithWrongTitles(split) if split.tasks.is_mismatch_C.any() else split
