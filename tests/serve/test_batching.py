"""Which rows share an engine call, and that each request gets its own rows back."""

from __future__ import annotations

import numpy as np
import pytest

from model.config import PreprocessConfig
from serve.batching import plan_calls, run_together

CONFIG = PreprocessConfig(image_size=16, vocab_size=600)


@pytest.mark.parametrize(
    ("cost", "calls"),
    [
        (0, [[1], [3], [0, 2, 4]]),
        (23, [[1], [3], [0, 2, 4]]),
        (24, [[1], [3, 0, 2, 4]]),
        (53, [[1, 3], [0, 2, 4]]),
        (183, [[1, 3, 0, 2, 4]]),
        (float("inf"), [[1, 3, 0, 2, 4]]),
    ],
)
def test_shorter_titles_join_while_their_padding_costs_no_more_than_a_call(cost: float, calls: list[list[int]]):
    """To 77: one row of 24 wastes 53 tokens, three rows of 16 waste 183; to 24 the three waste 24."""
    assert plan_calls([16, 77, 16, 24, 16], cost) == calls


def test_equal_titles_are_one_call_and_no_titles_are_none():
    assert plan_calls([24, 24], 0) == [[0, 1]]
    assert plan_calls([], 50) == []


def request(*titles: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels = np.full((len(titles), 16, 16, 3), titles[0][1] % 256, np.uint8)
    return np.array(titles, np.int32), pixels, np.ones((len(titles), 2), bool)


@pytest.mark.parametrize(
    ("cost", "shapes"), [(32, [(1, 77), (5, 24)]), (31, [(1, 77), (1, 24), (4, 16)]), (300, [(6, 77)])]
)
def test_each_request_gets_its_rows_whatever_call_they_went_through(cost: float, shapes: list[tuple[int, int]]):
    asked = []

    def run(input_ids, pixels, present):
        asked.append(input_ids.shape)
        return input_ids.sum(axis=1, keepdims=True), pixels[:, 0, 0, :1] + present[:, :1]

    requests = [request([598, 1, 599]), request([9] * 70), request([598, 2, 599], [598, 3, 599]), request([7] * 20)]
    requests.append(request([598, 4, 599]))
    answers = run_together(run, requests, CONFIG, cost)
    assert [logits.tolist() for logits, _ in answers] == [[[1198]], [[630]], [[1199], [1200]], [[140]], [[1201]]]
    assert [share.tolist() for _, share in answers] == [[[2]], [[10]], [[3], [3]], [[8]], [[5]]]
    assert asked == shapes
