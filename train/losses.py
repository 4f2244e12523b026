"""What a stage minimises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor, nn

from model.cma_clip import CMAClip
from model.config import Task
from train.data import MISSING, Batch

# B batch, C labels of all tasks, K tasks


def classification_losses(logits_BC: Tensor, targets_BC: Tensor, tasks: Sequence[Task]) -> Tensor:
    """Each task's mean loss over the products that have its label, float32 [K]; 0 where none has.

    Cross entropy for a single-label task; binary cross entropy, averaged over the labels, for a
    multi-label one. `targets_BC` is as in train.data.Batch.
    """
    sizes = [len(task.labels) for task in tasks]
    parts = zip(tasks, logits_BC.float().split(sizes, dim=1), targets_BC.split(sizes, dim=1), strict=True)
    return torch.stack([_task_loss(task, logits, targets) for task, logits, targets in parts])


def _task_loss(task: Task, logits: Tensor, targets: Tensor) -> Tensor:
    labelled_B = targets[:, 0] != MISSING
    targets = targets.clamp(min=0)
    if task.kind == "single_label":
        losses_B = F.cross_entropy(logits, targets, reduction="none")
    else:
        losses_B = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return (losses_B * labelled_B).sum() / labelled_B.sum().clamp(min=1)


class ClassificationObjective(nn.Module):
    """Sum of the tasks' losses. In training, `modality_dropout` hides titles and pictures."""

    def __init__(self, network: CMAClip, tasks: Sequence[Task], modality_dropout: float) -> None:
        super().__init__()
        self.network, self.tasks, self.modality_dropout = network, tasks, modality_dropout

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss to minimise and its parts by task."""
        present_B2 = batch.present_B2
        if self.training and self.modality_dropout > 0:
            present_B2 = drop_modalities(present_B2, self.modality_dropout)
        logits_BC, _ = self.network(batch.input_ids_BT, batch.pixels_BHWC, present_B2)
        losses_K = classification_losses(logits_BC, batch.targets_BC, self.tasks)
        return losses_K.sum(), {task.name: loss.detach() for task, loss in zip(self.tasks, losses_K, strict=True)}


def drop_modalities(present_B2: Tensor, share: float) -> Tensor:
    """Hide the title or the picture, at even odds, of about `share` of the products that have both."""
    draw_B = torch.rand(len(present_B2), device=present_B2.device)
    hidden_B2 = torch.stack([draw_B < share / 2, (draw_B >= share / 2) & (draw_B < share)], dim=1)
    return present_B2 & ~(hidden_B2 & present_B2.all(dim=1, keepdim=True))


class ContrastiveObjective(nn.Module):
    """CLIP's own loss between titles and pictures, over the micro-batches of all ranks together."""

    def __init__(self, network: CMAClip, rank: int, world_size: int) -> None:
        super().__init__()
        self.network = network
        self.loss = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=world_size)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss; it has no parts."""
        text_BTD, image_BPD, _ = self.network.towers(batch.input_ids_BT, batch.pixels_BHWC)
        # CLIP never lets the scale pass 100 (its paper, section 2.5).
        scale = self.network.towers.clip.logit_scale.clamp(max=4.6052).exp()
        features = (F.normalize(sequence[:, 0].float(), dim=-1) for sequence in (image_BPD, text_BTD))
        return self.loss(*features, scale), {}
