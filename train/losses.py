"""What a stage minimises."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cma_clip import Network, Output
from model.tasks import MISSING, TaskSet, has_labels
from train.data import Batch
from train.recipe import StageConfig

# B batch, C labels of all tasks, K tasks

LEAST_SHARE = 1e-4


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
        labelled_B = has_labels(targets)
        sums.append((task.loss(logits, targets.clamp(min=0), weights) * labelled_B).sum())
        counts.append(labelled_B.sum())
    return torch.stack(sums), torch.stack(counts)


def task_weights(tasks: TaskSet, multi_label_weight: float) -> Tensor:
    """How many times each task's loss counts, float32 [K]: those of several labels as often as said, others once."""
    several = [task.several_labels and task.is_labelled for task in tasks]
    return torch.where(torch.tensor(several), multi_label_weight, 1.0)


class Result(NamedTuple):
    """loss: to minimise. parts: mean loss of each task over its labelled products. output: of the network."""

    loss: Tensor
    parts: dict[str, Tensor]
    output: Output | None


class ClassificationObjective(nn.Module):
    """All tasks' losses, divided by the number of products.

    So each label counts the same, whatever the number of ranks and the size of a micro-batch, and a
    missing one counts nothing. In training, the stage's `mismatched` exchanges some titles and images among the
    products of a micro-batch, which a Mismatch has to find, `modality_dropout` hides some, and `evidence_loss` draws λ.
    `positive_weight_C` is as in `classification_losses`; `weight_K` as `task_weights`, 1 unless given.
    """

    positive_weight_C: Tensor | None
    weight_K: Tensor
    is_mismatch_L: Tensor

    def __init__(
        self,
        network: Network,
        tasks: TaskSet,
        settings: StageConfig,
        positive_weight_C: Tensor | None = None,
        weight_K: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network, self.tasks, self.settings = network, tasks, settings
        self.register_buffer("is_mismatch_L", torch.from_numpy(tasks.is_mismatch_L), persistent=False)
        self.register_buffer("positive_weight_C", positive_weight_C, persistent=False)
        self.register_buffer("weight_K", torch.ones(len(tasks)) if weight_K is None else weight_K, persistent=False)

    def forward(self, batch: Batch) -> Result:
        present_B2, targets_BC = batch.present_B2, batch.targets_BC
        if self.training and self.settings.mismatched > 0:
            batch, exchanged_B = exchange_modalities(batch, self.settings.mismatched)
            told_B = exchanged_B.to(targets_BC.dtype).where(batch.readable_B & present_B2.all(dim=1), MISSING)
            targets_BC = torch.where(self.is_mismatch_L, told_B[:, None], targets_BC)
        if self.training and self.settings.modality_dropout > 0:
            present_B2 = drop_modalities(present_B2, self.settings.modality_dropout)
        output, evidence_BK = batch.classified_by(self.network, present_B2)
        sums_K, counts_K = classification_losses(output.logits_BC, targets_BC, self.tasks, self.positive_weight_C)
        means_K = (sums_K / counts_K.clamp(min=1)).detach()
        parts = {task.name: mean for task, mean in zip(self.tasks, means_K, strict=True)}
        loss = (self.weight_K * sums_K).sum()
        if evidence_BK is not None and self.training and self.settings.evidence_loss > 0:
            losses_BK = share_losses(output.text_share_BK, evidence_BK, present_B2)
            loss = loss + self.settings.evidence_loss * losses_BK.sum()
        return Result(loss / len(present_B2), parts, output)


def share_losses(text_share_BK: Tensor, evidence_BK: Tensor, present_B2: Tensor) -> Tensor:
    """How far λ is from what the evidence says, as cross-entropy, [B, K]; 0 where title or image is absent."""
    share_BK, wanted_BK = text_share_BK.clamp(LEAST_SHARE, 1 - LEAST_SHARE), evidence_BK.sigmoid()
    losses_BK = -(wanted_BK * share_BK.log() + (1 - wanted_BK) * (1 - share_BK).log())
    return losses_BK * present_B2.all(dim=1, keepdim=True)


def exchange_modalities(batch: Batch, share: float) -> tuple[Batch, Tensor]:
    """Give about `share` of the complete products another one's title (two of three) or image; labels stay.

    Who would get one that is not there, or the title that it has, keeps its own.

    Returns:
        The batch, and bool [B]: which products got one.
    """
    count, device = len(batch.ids), batch.present_B2.device
    if count < 2:
        return batch, torch.zeros(count, dtype=torch.bool, device=device)
    donor_B = (torch.arange(count, device=device) + torch.randint(1, count, (), device=device)) % count
    draw_B, complete_B = torch.rand(count, device=device), batch.present_B2.all(dim=1)
    differs_B = (batch.input_ids_BT != batch.input_ids_BT[donor_B]).any(dim=1)
    gets_title_B = complete_B & (draw_B < share * 2 / 3) & batch.present_B2[donor_B, 0] & differs_B
    gets_image_B = complete_B & (draw_B >= share * 2 / 3) & (draw_B < share) & batch.present_B2[donor_B, 1]
    own_B = torch.arange(count, device=device)
    wanted = (torch.where(gets_B, donor_B, own_B) for gets_B in (gets_title_B, gets_image_B))
    return batch.exchanged(*wanted), gets_title_B | gets_image_B


def drop_modalities(present_B2: Tensor, share: float) -> Tensor:
    """Hide the title or the image, at even odds, of about `share` of the products that have both."""
    draw_B = torch.rand(len(present_B2), device=present_B2.device)
    hidden_B2 = torch.stack([draw_B < share / 2, (draw_B >= share / 2) & (draw_B < share)], dim=1)
    return present_B2 & ~(hidden_B2 & present_B2.all(dim=1, keepdim=True))
