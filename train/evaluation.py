"""Answers of a network for a whole split, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from model.cma_clip import Output
from model.tasks import TaskSet
from train.data import Batch, OrderedBatches, ProductDataset
from train.losses import Result, classification_losses
from train.metrics import task_metrics

# N products, C labels of all tasks, K tasks


class Ranks(NamedTuple):
    """Who this process is among the ranks, and where it computes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


class Predictions(NamedTuple):
    """Answers in the order of the split, on the CPU, the same on all ranks.

    logits_NC and text_share_NK float32; targets_NC as in train.data.Batch; present_N2 bool.
    problems: this rank's products that could not be read; their targets are missing.
    """

    logits_NC: Tensor
    text_share_NK: Tensor
    targets_NC: Tensor
    present_N2: Tensor
    problems: list[str]


@torch.no_grad()
def predict(
    classify: Callable[[Batch], Output], dataset: ProductDataset, batch_size: int, ranks: Ranks, workers: int
) -> Predictions:
    """Classify every product of a split once; `classify` must be in evaluation mode."""
    columns: list[list[Tensor]] = [[], [], [], []]
    problems: list[str] = []
    for batch in _batches(dataset, len(dataset), batch_size, ranks, workers):
        output = classify(batch)
        row = (output.logits_BC.float(), output.text_share_BK.float(), batch.targets_BC, batch.present_B2.float())
        for column, tensor in zip(columns, row, strict=True):
            column.append(tensor)
        problems += batch.problems
    logits, share, targets, present = (_gather(torch.stack(column), len(dataset)) for column in columns)
    return Predictions(logits, share, targets, present.bool(), problems)


def score(
    predictions: Predictions, tasks: TaskSet, positive_weight_C: Tensor | None = None
) -> tuple[float, dict[str, Any]]:
    """The loss, summed over the tasks' means over their labelled products, and the metrics of each task.

    Args:
        tasks: with the thresholds that multi-label answers are counted by.
        positive_weight_C: that of training, for the loss that training lowers.

    Raises:
        ValueError: no product has any label.
    """
    sums_K, counts_K = classification_losses(predictions.logits_NC, predictions.targets_NC, tasks, positive_weight_C)
    if not counts_K.any():
        raise ValueError("no product of this split has a label that could be read")
    metrics = task_metrics(predictions.logits_NC, predictions.text_share_NK, predictions.targets_NC, tasks)
    return (sums_K / counts_K.clamp(min=1)).sum().item(), metrics


@torch.no_grad()
def mean_loss(
    objective: Callable[[Batch], Result], dataset: ProductDataset, batch_size: int, ranks: Ranks, workers: int
) -> float:
    """An objective's loss, averaged over the full batches of a split."""
    batch_size = max(1, min(batch_size, len(dataset) // ranks.world_size))
    full = len(dataset) - len(dataset) % (batch_size * ranks.world_size) or len(dataset)
    losses = [objective(batch).loss.float() for batch in _batches(dataset, full, batch_size, ranks, workers)]
    total = torch.stack(losses).mean()
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.item() / ranks.world_size


def _batches(dataset: ProductDataset, rows: int, batch_size: int, ranks: Ranks, workers: int) -> Iterator[Batch]:
    sampler = OrderedBatches(rows, batch_size, rank=ranks.rank, world_size=ranks.world_size)
    loader = dataset.loader(sampler, workers)
    for batch in tqdm(loader, "predicting", len(sampler), leave=False, disable=not ranks.is_first, mininterval=2):
        yield batch.to(ranks.device)


def _gather(mine_SBX: Tensor, rows: int) -> Tensor:
    """Interleave the ranks' batches [steps, batch, ...] into the split's order and drop the repetitions."""
    parts = [mine_SBX]
    if dist.is_initialized():
        parts = [torch.empty_like(mine_SBX) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine_SBX.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 2)[:rows].cpu()
