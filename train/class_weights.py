"""How much a label that a product has weighs against one it has not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow.parquet as pq
import torch
from torch import Tensor

from model.tasks import Task, TaskSet
from train.data import ProductDataset

# C labels of all tasks


def check_class_weights(setting: str, tasks: TaskSet) -> None:
    """Weights must have labels to weigh.

    Raises:
        ValueError: weights are asked for and no task's loss takes any.
    """
    if setting != "none" and not any(task.weighs_labels for task in tasks):
        names = ", ".join(task.name for task in tasks)
        raise ValueError(
            f"class_weights {setting} is for multi-label tasks, and {names} have one label a product;"
            " set --class_weights none"
        )


def positive_weights(train: ProductDataset) -> Tensor:
    """The inverse frequency of each label where the loss takes weights, as MMBT weighs them; float32 [C].

    The products that have the task's label, divided by those that have this very label
    (facebookresearch/mmbt@c1220c4, train.py: get_criterion). 1 for a label that never occurs, which has no
    frequency to invert, and for those of other tasks.
    """
    return torch.cat([_inverse_frequencies(train, task) for task in train.tasks])


def _inverse_frequencies(train: ProductDataset, task: Task) -> Tensor:
    if not task.weighs_labels:
        return torch.ones(len(task.labels))
    products, counts = 0, Counter[str]()
    # Not from dataset.json: it does not say how many products lack the task's label.
    for path in sorted({path for path, _ in train.row_groups}):
        chosen = [labels for labels in pq.read_table(path, columns=[task.name])[0].to_pylist() if labels is not None]
        products += len(chosen)
        counts.update(label for labels in chosen for label in set(labels))
    return inverse_frequencies(products, [counts[label] for label in task.labels])


def inverse_frequencies(products: int, counts: Sequence[int]) -> Tensor:
    """The weight of each label, of which so many of the products have it; 1 for one that never occurs."""
    return torch.tensor([products / count if count else 1.0 for count in counts])
