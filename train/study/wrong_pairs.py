"""How well the answer `mismatch` tells exchanged titles and images from a product's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from cma_clip.tables import aligned
from train.data import ProductDataset
from train.metrics import auroc
from train.predict import Predictions
from train.study.perturbed import NoDonors, PerturbedDataset

# N products

Answer = Callable[[ProductDataset], Predictions]
EXCHANGES = ("titles_shuffled", "titles_contradicting", "titles_of_a_near_product", "pictures_shuffled")


def wrong_pairs(answer: Answer, dataset: ProductDataset) -> dict[str, dict[str, Any]]:
    """Judge it on the products that take part in each exchange, as they are and exchanged.

    Returns:
        perturbation -> products, auroc; told and false_alarms: the share of the exchanged pairs, and of the same
        products' own, whose score reaches the threshold. Empty where the network does not tell; an exchange that
        nobody can take part in is left out.
    """
    tellers = [task for task in dataset.tasks if not task.is_labelled]
    if not tellers:
        return {}
    (task,), column_C, own, result = tellers, dataset.tasks.is_mismatch_C, answer(dataset), {}

    def scores(answers: Predictions) -> np.ndarray:
        return task.scores(answers.logits_NC.numpy()[:, column_C])

    for name in EXCHANGES:
        try:
            changed = PerturbedDataset(dataset, name)
        except NoDonors:
            continue
        right_N1, wrong_N1 = scores(own.of(changed.products)), scores(answer(changed))
        all_N = torch.from_numpy(np.concatenate([right_N1, wrong_N1])[:, 0])
        result[name] = {
            "products": len(right_N1),
            "auroc": auroc(all_N, torch.arange(len(all_N)) >= len(right_N1)),
            "told": float(task.accepted(wrong_N1).mean()),
            "false_alarms": float(task.accepted(right_N1).mean()),
        }
    return result


def format_pairs(told: dict[str, dict[str, Any]]) -> str:
    """As a table for people, a line an exchange."""
    rows = [["mismatch", "products", "AUROC", "told", "false alarms"]]
    for name, values in told.items():
        shares = (f"{values[key]:.3f}" for key in ("auroc", "told", "false_alarms"))
        rows.append([name, str(values["products"]), *shares])
    return aligned(rows)
