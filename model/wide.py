"""A wide part beside the deep one (Cheng et al., arXiv 1606.07792): words and image statistics straight to the labels.

Transformers learn little from a few thousand images, where a linear layer over what needs no training learns much
(RESULTS.md). Titles count by their words and pairs of words, images by `model.image_statistics`, and λ weighs the two
as it weighs T' and I'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.image_statistics import FEATURES, ImageStatistics
from model.tasks import Task

# B batch, T token ids, D width, C labels of all tasks, K tasks, F features

PAIRS = 16_384  # rows that pairs of words share by their hash
# Steps of AdamW do not depend on a gradient's size: what counts this many times is learned so much faster.
BOOST = 20.0
SPREAD = 5.0  # of the statistics that join I'


class Wide(NamedTuple):
    """What the wide part says of products; all float32. image_BD joins I'."""

    title_logits_BC: Tensor
    image_logits_BC: Tensor
    image_BD: Tensor


class WidePart(nn.Module):
    """Linear models of title and image, which start as nothing.

    Attributes:
        center, scale: of each statistic, from images to train on (`fit`); saved with the weights.
    """

    center: Tensor
    scale: Tensor
    task_C: Tensor
    before: Tensor
    behind: Tensor

    def __init__(self, tasks: Sequence[Task], width: int, vocab_size: int, image_size: int) -> None:
        super().__init__()
        columns = sum(task.columns for task in tasks)
        self.vocab_size = vocab_size
        # A pair's row is the sum of two numbers, modulo PAIRS: engines that multiply integers as float32 agree on it.
        ids = torch.arange(vocab_size)
        self.register_buffer("before", (ids * 31337 + 13) % PAIRS, persistent=False)
        self.register_buffer("behind", ids * 7919 % PAIRS, persistent=False)
        self.words = nn.Embedding(vocab_size + PAIRS, columns)
        self.statistics = ImageStatistics(image_size)
        self.to_logits, self.to_width = nn.Linear(FEATURES, columns), nn.Linear(FEATURES, width)
        self.register_buffer("center", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.register_buffer("task_C", torch.cat([torch.full((t.columns,), k) for k, t in enumerate(tasks)]), False)
        for zero in (self.words.weight, self.to_logits.weight, self.to_logits.bias, self.to_width.bias):
            nn.init.zeros_(zero)
        nn.init.normal_(self.to_width.weight, std=0.05)

    def title_logits(self, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, C]: the sum over words and pairs of words, over the root of their number.

        mask_BT is True up to the end token. Start and end make pairs with their neighbours and are no words.
        """
        ids_BT = input_ids_BT.long()
        sums = self.before[ids_BT[:, :-1]] + self.behind[ids_BT[:, 1:]]
        pairs = torch.where(sums < PAIRS, sums, sums - PAIRS) + self.vocab_size
        is_pair, is_word = mask_BT[:, 1:], torch.cat([mask_BT[:, 1:], torch.zeros_like(mask_BT[:, :1])], dim=1)
        is_word = is_word & (torch.arange(mask_BT.shape[1], device=mask_BT.device) > 0)
        counts = torch.cat([is_word, is_pair], dim=1).to(self.words.weight.dtype)
        rows = self.words(torch.cat([ids_BT, pairs], dim=1))
        total_BC = (rows * counts[:, :, None]).sum(dim=1)
        return BOOST * total_BC / counts.sum(dim=1, keepdim=True).clamp(min=1).sqrt()

    def standardised(self, pixels_BHWC: Tensor) -> Tensor:
        """[B, F], of length about 1."""
        return (self.statistics(pixels_BHWC) - self.center) * self.scale / FEATURES**0.5

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, pixels_BHWC: Tensor) -> Wide:
        """mask_BT is True up to the end token."""
        device = pixels_BHWC.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):  # sums over many products of very different size
                return self._forward(input_ids_BT, mask_BT, pixels_BHWC)
        return self._forward(input_ids_BT, mask_BT, pixels_BHWC)

    def _forward(self, input_ids_BT: Tensor, mask_BT: Tensor, pixels_BHWC: Tensor) -> Wide:
        features_BF = self.standardised(pixels_BHWC)
        image_logits_BC = BOOST * self.to_logits(features_BF)
        return Wide(self.title_logits(input_ids_BT, mask_BT), image_logits_BC, self.to_width(SPREAD * features_BF))

    def weigh(self, wide: Wide, text_share_BK: Tensor) -> Tensor:
        """λ·title + (1 - λ)·image, each label by its task's λ: [B, C]."""
        share_BC = text_share_BK[:, self.task_C]
        return share_BC * wide.title_logits_BC + (1 - share_BC) * wide.image_logits_BC

    @torch.no_grad()
    def fit(self, pixels_NHWC: Tensor) -> None:
        """Take center and scale of the statistics from images; a statistic that is the same in all counts nothing."""
        features_NF = torch.cat([self.statistics(some) for some in pixels_NHWC.split(64)]).double()
        spread_F = features_NF.std(dim=0, correction=0)
        self.center.copy_(features_NF.mean(dim=0))
        self.scale.copy_(torch.where(spread_F > 1e-6, 1 / spread_F.clamp(min=1e-6), torch.zeros_like(spread_F)))
