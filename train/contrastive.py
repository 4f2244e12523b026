"""CLIP's own loss, over all products of an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from open_clip.loss import gather_features
from torch import Tensor, nn

from model.cma_clip import Network
from train.data import Batch
from train.losses import Result

# B products of a micro-batch, D width, G products of all micro-batches and ranks


class Features(NamedTuple):
    """Both sides of so many pairs, of length 1: float32 [B, D]; complete_B: False where the product is no pair."""

    text_BD: Tensor
    image_BD: Tensor
    complete_B: Tensor
    logit_scale: Tensor


class Cached(NamedTuple):
    """What an update's loss wants of one of its micro-batches: its value, and its gradients by what made it."""

    loss: Tensor
    text_BD: Tensor
    image_BD: Tensor
    logit_scale: Tensor


class ContrastiveObjective(nn.Module):
    """CLIP's own loss between titles and images, each product of an update against all others of it.

    Products that lack one of the two, or cannot be read, are neither pairs nor counterexamples. Where an update has
    several micro-batches a rank, the features of all are taken first, without gradients (`features`); `update_loss`
    makes of them what each micro-batch is then given (`cached`). So do open_clip's --accum-freq and GradCache
    (arXiv 2101.06983): the number of counterexamples does not depend on that of the ranks.
    """

    def __init__(self, network: Network, rank: int, world_size: int) -> None:
        super().__init__()
        self.network, self.rank, self.world_size = network, rank, world_size

    def forward(self, batch: Batch, cached: Cached | None = None, only_features: bool = False) -> Result | Features:
        text_BTD, image_BPD, _ = self.network.towers(batch.input_ids_BT, batch.pixels_BHWC)
        text_BD, image_BD = (F.normalize(sequence[:, 0].float(), dim=-1) for sequence in (text_BTD, image_BPD))
        complete_B = batch.present_B2.all(dim=1) & batch.readable_B
        logit_scale = self.network.towers.clip.logit_scale
        if only_features:
            return Features(text_BD, image_BD, complete_B, logit_scale.clone())
        if cached:
            wanted = (text_BD * cached.text_BD).sum() + (image_BD * cached.image_BD).sum()
            wanted = wanted + (logit_scale * cached.logit_scale).sum()  # of one element, not of none
            return Result(wanted - wanted.detach() + cached.loss, {}, None)
        scale = _scale(logit_scale)
        # This rank's products stand at rank * B
        all_image_GD, all_text_GD, complete_G = self._gather(image_BD, text_BD, complete_B)
        own_B = torch.arange(len(text_BD), device=text_BD.device) + self.rank * len(text_BD)
        directions = ((image_BD, all_text_GD), (text_BD, all_image_GD))
        losses = [
            self._direction(scale * mine @ others.T, own_B, complete_B, complete_G) for mine, others in directions
        ]
        return Result(torch.stack(losses).mean(), {}, None)

    def update_loss(self, features: Sequence[Features]) -> list[Cached]:
        """What each of this rank's micro-batches is to be given, from the features of all of them on all ranks.

        Their gradients are times the number of micro-batches and of ranks, over which an update takes the mean.
        """
        sizes = [len(one.text_BD) for one in features]
        text_GD, image_GD, complete_G = (
            self._of_all_ranks(torch.cat(parts)) for parts in list(zip(*features, strict=True))[:3]
        )
        leaves = [tensor.detach().requires_grad_() for tensor in (text_GD, image_GD, features[0].logit_scale)]
        text, image, scale = leaves
        loss = text_GD.new_zeros(())
        with torch.enable_grad():
            # One micro-batch against all at a time: no table of G x G is ever held.
            for own_B in torch.arange(len(text_GD), device=text_GD.device).split(max(sizes)):
                part = self._part(text, image, scale, own_B, complete_G)
                part.backward()
                loss = loss + part.detach()
        first, times = self.rank * sum(sizes), len(sizes) * self.world_size
        gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
        text_BD, image_BD = ((one[first : first + sum(sizes)] * times).split(sizes) for one in gradients[:2])
        return [Cached(loss, *parts, gradients[2]) for parts in zip(text_BD, image_BD, strict=True)]

    def _part(
        self, text_GD: Tensor, image_GD: Tensor, logit_scale: Tensor, own_B: Tensor, complete_G: Tensor
    ) -> Tensor:
        """The share of the update's loss that these of its products have."""
        scale, directions = _scale(logit_scale), ((image_GD, text_GD), (text_GD, image_GD))
        losses = [
            self._direction(scale * mine[own_B] @ others.T, own_B, complete_G[own_B], complete_G)
            for mine, others in directions
        ]
        return torch.stack(losses).mean() / self.world_size

    def _of_all_ranks(self, mine: Tensor) -> Tensor:
        """[B, …] of each rank, one after the other; as float32, for no backend gathers booleans."""
        if self.world_size == 1:
            return mine
        parts = [torch.empty_like(mine, dtype=torch.float32) for _ in range(self.world_size)]
        dist.all_gather(parts, mine.to(torch.float32).contiguous())
        return torch.cat(parts).to(mine.dtype)

    def _gather(self, image_BD: Tensor, text_BD: Tensor, complete_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.world_size == 1:
            return image_BD, text_BD, complete_B
        options = {"rank": self.rank, "world_size": self.world_size}
        features = gather_features(image_BD, text_BD, local_loss=True, gather_with_grad=True, **options)
        complete = [torch.empty_like(complete_B, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(complete, complete_B.to(torch.uint8))
        return *features, torch.cat(complete).bool()

    def _direction(self, logits_BG: Tensor, own_B: Tensor, complete_B: Tensor, complete_G: Tensor) -> Tensor:
        logits_BG = logits_BG.masked_fill(~complete_G, torch.finfo(logits_BG.dtype).min)
        losses_B = F.cross_entropy(logits_BG, own_B, reduction="none")
        return losses_B.where(complete_B, 0.0).sum() * self.world_size / complete_G.sum().clamp(min=1)


def _scale(logit_scale: Tensor) -> Tensor:
    """CLIP never lets it pass 100 (its paper, section 2.5)."""
    return logit_scale.clamp(max=4.6052).exp()
