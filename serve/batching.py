"""Requests of one Triton batch through the engine: which rows share a call, and how their titles are padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.config import PreprocessConfig
from model.preprocess import pad_titles
from serve.engines import Run

Arrays = tuple[np.ndarray, ...]


def plan_calls(lengths: Sequence[int], call_cost: float) -> list[list[int]]:
    """Rows of each engine call: from the longest titles down, shorter ones join while that is the cheaper way.

    Args:
        lengths: of each row's title as it would be padded by itself.
        call_cost: of one more call, in tokens of padding (Runtime.call_cost).
    Returns:
        indices of rows, each in one call.
    """
    calls: list[list[int]] = []
    longest = 0
    for length in sorted(set(lengths), reverse=True):
        rows = [row for row, other in enumerate(lengths) if other == length]
        if calls and len(rows) * (longest - length) <= call_cost:
            calls[-1] += rows
        else:
            calls.append(rows)
            longest = length
    return calls


def run_together(run: Run, requests: Sequence[Arrays], config: PreprocessConfig, call_cost: float) -> list[Arrays]:
    """Answer requests whose titles differ in length, in as few calls as pay.

    Args:
        requests: input_ids [b, t], pixels [b, H, W, 3], present [b, 2] of each.
    Returns:
        logits [b, C] and text_share [b, K] of each request, in order.
    """
    ids, pixels, present = zip(*requests, strict=True)
    ids_B = [row for rows in ids for row in rows]
    pixels_BHW3, present_B2 = np.concatenate(pixels), np.concatenate(present)
    results: list[Sequence[np.ndarray]] = [()] * len(ids_B)
    for rows in plan_calls([config.padded_length(len(row)) for row in ids_B], call_cost):
        outputs = run(pad_titles([ids_B[row] for row in rows], config), pixels_BHW3[rows], present_B2[rows])
        for row, *result in zip(rows, *outputs, strict=True):
            results[row] = result
    ends = np.cumsum([len(rows) for rows in ids])[:-1]
    return list(zip(*(np.split(np.stack(rows), ends) for rows in zip(*results, strict=True)), strict=True))
