"""Modality-wise attention: how far each task trusts the title against the picture (paper, section 2.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kernels import reference

# B batch, K tasks, D width


class ModalityAttention(nn.Module):
    """One relevance vector w for each task; λ is the share of the text.

    Args:
        num_tasks: K.
        width: D.
        learned: False fixes λ at 0.5 (section 4, "without MWA").
    """

    def __init__(self, num_tasks: int, width: int, learned: bool = True) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        self.relevance = nn.Parameter(0.02 * torch.randn(num_tasks, width)) if learned else None

    def forward(self, text_cls_BD: Tensor, image_cls_BD: Tensor, present_B2: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted sums [B, K, D] and λ, float32 [B, K]."""
        fused, text_share = reference.modality_attention(text_cls_BD, image_cls_BD, self.relevance, present_B2)
        return fused.expand(-1, self.num_tasks, -1), text_share.expand(-1, self.num_tasks)
