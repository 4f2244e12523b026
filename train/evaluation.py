"""Answers of a network for a whole split, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from model.cma_clip import CMAClip
from model.config import Task
from train.data import OrderedBatches, ProductDataset
from train.losses import ContrastiveObjective, classification_losses
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

    def autocast(self, enabled: bool) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


class Predictions(NamedTuple):
    """logits_NC and text_share_NK in the order of the split, float32 on the CPU, the same on all ranks."""

    logits_NC: Tensor
    text_share_NK: Tensor


@torch.no_grad()
def predict(
    network: CMAClip, dataset: ProductDataset, batch_size: int, ranks: Ranks, *, workers: int, bf16: bool
) -> Predictions:
    """Classify every product of a split once. The network must be in evaluation mode."""
    sampler = OrderedBatches(len(dataset), batch_size, rank=ranks.rank, world_size=ranks.world_size)
    logits, shares = [], []
    batches = dataset.loader(sampler, workers)
    for batch in tqdm(batches, "predicting", len(sampler), leave=False, disable=not ranks.is_first, mininterval=2):
        batch = batch.to(ranks.device)
        with ranks.autocast(bf16):
            output = network(batch.input_ids_BT, batch.pixels_BHWC, batch.present_B2)
        logits.append(output.logits_BC.float())
        shares.append(output.text_share_BK.float())
    rows = len(dataset)
    return Predictions(_gather(torch.stack(logits), rows), _gather(torch.stack(shares), rows))


def _gather(mine_SBX: Tensor, rows: int) -> Tensor:
    """Interleave the ranks' batches [steps, batch, ...] into the split's order and drop the repetitions."""
    parts = [mine_SBX]
    if dist.is_initialized():
        parts = [torch.empty_like(mine_SBX) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine_SBX.contiguous())
    return torch.stack(parts, dim=1).flatten(0, 2)[:rows].cpu()


def score(predictions: Predictions, targets_NC: Tensor, tasks: Sequence[Task]) -> tuple[float, dict[str, Any]]:
    """The loss (sum over tasks) and the metrics of each task."""
    loss = classification_losses(predictions.logits_NC, targets_NC, tasks).sum().item()
    return loss, task_metrics(*predictions, targets_NC, tasks)


@torch.no_grad()
def contrastive_loss(
    objective: ContrastiveObjective, dataset: ProductDataset, batch_size: int, ranks: Ranks, *, workers: int, bf16: bool
) -> float:
    """CLIP's loss, averaged over the full batches of a split."""
    batch_size = max(1, min(batch_size, len(dataset) // ranks.world_size))
    full = len(dataset) - len(dataset) % (batch_size * ranks.world_size) or len(dataset)
    sampler = OrderedBatches(full, batch_size, rank=ranks.rank, world_size=ranks.world_size)
    total = torch.zeros((), device=ranks.device)
    for batch in dataset.loader(sampler, workers):
        with ranks.autocast(bf16):
            total += objective(batch.to(ranks.device))[0]
    if dist.is_initialized():
        dist.all_reduce(total)
    return total.item() / (len(sampler) * ranks.world_size)
