"""A wide part beside the deep one (Cheng et al., arXiv 1606.07792): words and image statistics straight to the labels.

Transformers learn little from a few thousand images, where a linear layer over what needs no training learns much
(RESULTS.md). Titles count by their words and parts of words (`model.title_terms`), images by `model.image_statistics`,
and λ weighs the two as it weighs T' and I'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.clip_towers import text_mask
from model.image_statistics import FEATURES, ImageStatistics
from model.tasks import Task
from model.title_terms import TitleTerms

# B batch, T token ids, D width, C labels of all tasks, K tasks, F features

# Steps of AdamW do not depend on a gradient's size: what counts this many times is learned so much faster. More than
# this lost what the part begins with (RESULTS.md).
BOOST = 2.0
SPREAD = 5.0  # of the statistics that join I'


class Wide(NamedTuple):
    """What the wide part says of products; all float32. image_BD joins I'."""

    title_logits_BC: Tensor
    image_logits_BC: Tensor
    image_BD: Tensor


class WidePart(nn.Module):
    """Linear models of title and image, which start as nothing, or by `begin` as what ridge regression finds.

    Attributes:
        boost: BOOST, saved with the weights, which mean nothing without it.
        center, scale: of each statistic, from images to train on (`fit`); saved with the weights.
        title_share: of each task, [K], how much titles tell of it beside images (train.fit_wide); 0.5 unless known;
            saved too. Both sides would otherwise learn the answers that they see by heart, at the cost of what
            one of them knows.
    """

    boost: Tensor
    center: Tensor
    scale: Tensor
    title_share: Tensor
    task_C: Tensor

    def __init__(self, tasks: Sequence[Task], width: int, vocab_size: int, image_size: int) -> None:
        super().__init__()
        columns = sum(task.columns for task in tasks)
        self.terms = TitleTerms(vocab_size)
        self.words = nn.Embedding(self.terms.rows, columns)
        self.statistics = ImageStatistics(image_size)
        self.to_logits, self.to_width = nn.Linear(FEATURES, columns), nn.Linear(FEATURES, width)
        self.register_buffer("boost", torch.tensor(BOOST))
        self.register_buffer("center", torch.zeros(FEATURES))
        self.register_buffer("scale", torch.ones(FEATURES))
        self.register_buffer("title_share", torch.full((len(tasks),), 0.5))
        self.register_buffer("task_C", torch.cat([torch.full((t.columns,), k) for k, t in enumerate(tasks)]), False)
        for zero in (self.words.weight, self.to_logits.weight, self.to_logits.bias, self.to_width.bias):
            nn.init.zeros_(zero)
        nn.init.normal_(self.to_width.weight, std=0.05)

    def title_logits(self, input_ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """[B, C]: what the title's terms say, each as much as it counts."""
        rows_BN, weights_BN = self.terms(input_ids_BT, mask_BT)
        return self.boost * (self.words(rows_BN) * weights_BN[:, :, None]).sum(dim=1)

    def standardised(self, features_BF: Tensor) -> Tensor:
        """Statistics of images, of length about 1 each: [B, F]."""
        return (features_BF - self.center) * self.scale / FEATURES**0.5

    def forward(self, input_ids_BT: Tensor, mask_BT: Tensor, pixels_BHWC: Tensor) -> Wide:
        """mask_BT is True up to the end token."""
        device = pixels_BHWC.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):  # sums over many products of very different size
                return self._forward(input_ids_BT, mask_BT, pixels_BHWC)
        return self._forward(input_ids_BT, mask_BT, pixels_BHWC)

    def _forward(self, input_ids_BT: Tensor, mask_BT: Tensor, pixels_BHWC: Tensor) -> Wide:
        features_BF = self.standardised(self.statistics(pixels_BHWC))
        image_logits_BC = self.boost * self.to_logits(features_BF)
        return Wide(self.title_logits(input_ids_BT, mask_BT), image_logits_BC, self.to_width(SPREAD * features_BF))

    def weigh(self, wide: Wide, text_share_BK: Tensor) -> Tensor:
        """λ·title + (1 - λ)·image, each as strong as its task's `title_share` has it, by its task's λ: [B, C]."""
        title_C, share_BC = 2 * self.title_share[self.task_C], text_share_BK[:, self.task_C]
        return share_BC * (title_C * wide.title_logits_BC) + (1 - share_BC) * ((2 - title_C) * wide.image_logits_BC)

    @torch.no_grad()
    def begin(self, task: int, terms_RL: Tensor, images_FL: Tensor) -> None:
        """Let a task's logits, at λ = 0.5, be its terms and standardised statistics times these weights."""
        columns = (self.task_C == task).nonzero().flatten()
        title, image = self.title_share[task] * self.boost, (1 - self.title_share[task]) * self.boost
        self.words.weight[:, columns] = (terms_RL / title).to(self.words.weight.dtype)
        self.to_logits.weight[columns] = (images_FL / image).T.to(self.words.weight.dtype)

    @torch.no_grad()
    def fit(self, features_NF: Tensor, input_ids_NT: Tensor) -> None:
        """Take center and scale from images' statistics, and how rare terms are from titles.

        A statistic that is the same in all images counts nothing.
        """
        features_NF = features_NF.double()
        spread_F = features_NF.std(dim=0, correction=0)
        self.center.copy_(features_NF.mean(dim=0))
        self.scale.copy_(torch.where(spread_F > 1e-6, 1 / spread_F.clamp(min=1e-6), torch.zeros_like(spread_F)))
        self.terms.fit(input_ids_NT, text_mask(input_ids_NT))
