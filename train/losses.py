"""What a stage minimises."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cma_clip import Network, Output
from model.tasks import MISSING, TaskSet
from train.data import Batch
from train.recipe import StageConfig

# B batch, C labels of all tasks, K tasks


def classification_losses(
    logits_BC: Tensor, targets_BC: Tensor, tasks: TaskSet, positive_weight_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Each task's summed loss over the products that have its label, float32 [K], and their number [K].

    The term of a label that a product has counts `positive_weight_C` times where the kind of task takes weights
    (Task.loss). `targets_BC` is as in train.data.Batch.
    """
    weights_C = targets_BC.new_ones(targets_BC.shape[1]) if positive_weight_C is None else positive_weight_C
    columns = tasks.split_logits(logits_BC.float()), tasks.split(targets_BC), tasks.split(weights_C.float())
    sums, counts = [], []
    for (task, logits), (_, targets), (_, weights) in zip(*columns, strict=True):
        labelled_B = targets[:, 0] != MISSING
        sums.append((task.loss(logits, targets.clamp(min=0), weights) * labelled_B).sum())
        counts.append(labelled_B.sum())
    return torch.stack(sums), torch.stack(counts)


class Result(NamedTuple):
    """loss: to minimise. parts: mean loss of each task over its labelled products. output: of the network."""

    loss: Tensor
    parts: dict[str, Tensor]
    output: Output | None


class ClassificationObjective(nn.Module):
    """All tasks' losses, divided by the number of products.

    So each label counts the same, whatever the number of ranks and the size of a micro-batch, and a
    missing one counts nothing. In training, the stage's `modality_dropout` hides titles and images, and
    `mismatched` exchanges some among the products of a micro-batch.
    `positive_weight_C` is as in `classification_losses`.
    """

    positive_weight_C: Tensor | None

    def __init__(
        self, network: Network, tasks: TaskSet, settings: StageConfig, positive_weight_C: Tensor | None = None
    ) -> None:
        super().__init__()
        self.network, self.tasks, self.settings = network, tasks, settings
        self.register_buffer("positive_weight_C", positive_weight_C, persistent=False)

    def forward(self, batch: Batch) -> Result:
        if self.training and self.settings.mismatched > 0:
            batch = exchange_modalities(batch, self.settings.mismatched)
        present_B2 = batch.present_B2
        if self.training and self.settings.modality_dropout > 0:
            present_B2 = drop_modalities(present_B2, self.settings.modality_dropout)
        output = self.network(batch.input_ids_BT, batch.pixels_BHWC, present_B2)
        sums_K, counts_K = classification_losses(output.logits_BC, batch.targets_BC, self.tasks, self.positive_weight_C)
        means_K = (sums_K / counts_K.clamp(min=1)).detach()
        parts = {task.name: mean for task, mean in zip(self.tasks, means_K, strict=True)}
        return Result(sums_K.sum() / len(present_B2), parts, output)


def exchange_modalities(batch: Batch, share: float) -> Batch:
    """Give about `share` of the complete products another one's title (two of three) or image; labels stay.

    Who would get one that is not there keeps its own.
    """
    count, device = len(batch.ids), batch.present_B2.device
    if count < 2:
        return batch
    donor_B = (torch.arange(count, device=device) + torch.randint(1, count, (), device=device)) % count
    draw_B, complete_B = torch.rand(count, device=device), batch.present_B2.all(dim=1)
    gets_title_B = complete_B & (draw_B < share * 2 / 3) & batch.present_B2[donor_B, 0]
    gets_image_B = complete_B & (draw_B >= share * 2 / 3) & (draw_B < share) & batch.present_B2[donor_B, 1]
    input_ids_BT = torch.where(gets_title_B[:, None], batch.input_ids_BT[donor_B], batch.input_ids_BT)
    wanted_B = torch.where(gets_image_B, donor_B, torch.arange(count, device=device))
    return dataclasses.replace(batch, input_ids_BT=input_ids_BT, pixels_BHWC=batch.pixels_BHWC[wanted_B])


def drop_modalities(present_B2: Tensor, share: float) -> Tensor:
    """Hide the title or the image, at even odds, of about `share` of the products that have both."""
    draw_B = torch.rand(len(present_B2), device=present_B2.device)
    hidden_B2 = torch.stack([draw_B < share / 2, (draw_B >= share / 2) & (draw_B < share)], dim=1)
    return present_B2 & ~(hidden_B2 & present_B2.all(dim=1, keepdim=True))
