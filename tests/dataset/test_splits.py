"""Which split a product belongs to, and that none is in two."""

from __future__ import annotations

import pytest

from dataset.splits import SplitShares, refuse_leakage


def test_shares_hold_and_depend_on_the_seed():
    ids = [f"id{n}" for n in range(10_000)]
    splits = [SplitShares(0.1, 0.2, seed=0).split_of(id) for id in ids]
    assert splits.count("validation") / 10_000 == pytest.approx(0.1, abs=0.015)
    assert splits.count("test") / 10_000 == pytest.approx(0.2, abs=0.015)
    assert splits != [SplitShares(0.1, 0.2, seed=1).split_of(id) for id in ids]


def test_R14_an_id_in_two_splits_is_refused():
    refuse_leakage("here", {"train": ["a", "a", "b"], "test": ["c"]})
    with pytest.raises(ValueError, match="here: 2 ids are in two splits, such as a in train and test"):
        refuse_leakage("here", {"train": ["b", "a"], "validation": ["c"], "test": ["b", "a"]})
