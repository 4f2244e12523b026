"""What an engine says, looked at before it is answered: nothing that is no number leaves the server."""

from __future__ import annotations

import numpy as np

from model.refusal import Code, Refusal
from model.tasks import TaskSet

# B rows of a request, C columns of all tasks, K tasks

SHARE_SLACK = 1e-5  # softmax over two in float32 may end above 1


class NotFiniteError(Exception):
    """The engine's fault, not the caller's: a NaN or an infinity among its numbers."""


def check_outputs(tasks: TaskSet, logits_BC: np.ndarray, text_share_BK: np.ndarray, present_B2: np.ndarray) -> None:
    """Hold an engine's outputs against the bundle; any caller of `decode` alone may have made them up.

    Raises:
        Refusal: a tensor is of another width or number of rows, λ lies outside 0..1, or a row has no modality.
        NotFiniteError: logits or λ hold what JSON cannot say.
    """
    rows = len(logits_BC)
    widths = {"logits": tasks.num_columns, "text_share": len(tasks), "present": 2}
    for (name, width), array in zip(widths.items(), (logits_BC, text_share_BK, present_B2), strict=True):
        if array.shape != (rows, width):
            raise Refusal(Code.BAD_TENSOR, f"{name} is {list(array.shape)}, expected {[rows, width]}")
    for name, array in (("logits", logits_BC), ("text_share", text_share_BK)):
        if not np.isfinite(array).all():
            raise NotFiniteError(f"{name} of row {np.isfinite(array).all(axis=1).argmin()} is not finite: {array}")
    if text_share_BK.min() < 0 or text_share_BK.max() > 1 + SHARE_SLACK:
        raise Refusal(Code.BAD_TENSOR, "text_share must lie in 0..1")
    check_present(present_B2)


def check_present(present_B2: np.ndarray) -> None:
    """Raises Refusal where a row has neither title nor image: the network's masks leave nothing of it."""
    if not present_B2.any(axis=1).all():
        raise Refusal(Code.NO_MODALITY, f"row {present_B2.any(axis=1).argmin()} of present has neither title nor image")
