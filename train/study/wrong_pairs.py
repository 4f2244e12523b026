"""How well the answer `mismatch` tells exchanged titles and images from a product's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cma_clip.tables import aligned
from model.tasks import TaskSet
from train.metrics import auroc
from train.predict import Predictions

# N products


def told_apart(own: Predictions, exchanged: Predictions, tasks: TaskSet) -> dict[str, Any]:
    """Judge it on products as they are and with another's title or image, from the answers for the same products.

    Returns:
        products, auroc; told and false_alarms: the share of the exchanged pairs, and of the products' own, whose
        score reaches the threshold. Empty where no task tells.
    """
    tellers = [task for task in tasks if not task.is_labelled]
    if not tellers:
        return {}
    (task,) = tellers
    own_N1, exchanged_N1 = (task.scores(a.logits_NC.numpy()[:, tasks.is_mismatch_C]) for a in (own, exchanged))
    scores = torch.from_numpy(np.concatenate([own_N1, exchanged_N1])[:, 0])
    return {
        "products": len(own_N1),
        "auroc": auroc(scores, torch.arange(len(scores)) >= len(own_N1)),
        "told": float(task.accepted(exchanged_N1).mean()),
        "false_alarms": float(task.accepted(own_N1).mean()),
    }


def format_pairs(told: dict[str, dict[str, Any]]) -> str:
    """As a table for people, a line an exchange."""
    rows = [["mismatch", "products", "AUROC", "told", "false alarms"]]
    for name, values in told.items():
        shares = (f"{values[key]:.3f}" for key in ("auroc", "told", "false_alarms"))
        rows.append([name, str(values["products"]), *shares])
    return aligned(rows)
