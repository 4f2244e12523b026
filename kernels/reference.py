"""What modality-wise attention and the heads compute, in plain PyTorch: the definition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# B batch, K tasks, D width, H hidden units, C labels of one task or, in modality_heads, of all


def modality_attention(
    text_cls_BD: Tensor,
    image_cls_BD: Tensor,
    relevance_KD: Tensor | None,
    present_B2: Tensor,
    evidence_BK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weigh text against image for every task (paper, section 2.3).

    Args:
        text_cls_BD: T'_CLS after sequence-wise attention.
        image_cls_BD: I'_CLS, same shape.
        relevance_KD: learned vector w of each task; None fixes λ at 0.5 for one fused vector.
        present_B2: whether there is a title, an image; an absent one gets no share.
        evidence_BK: what else speaks for the title, added to e_T; with a relevance only.
    Returns:
        fused_BKD: λ·text + (1 - λ)·image, in the input dtype.
        text_share_BK: λ = exp(e_T) / (exp(e_T) + exp(e_I)), in [0, 1]; float32 at least.
    """
    precise = torch.promote_types(text_cls_BD.dtype, torch.float32)
    if relevance_KD is None:
        text_share_BK = torch.full_like(text_cls_BD[:, :1], 0.5, dtype=precise)
    else:
        # Products and sums instead of a matrix product: autocast would round that to bfloat16.
        difference_B1D = (text_cls_BD.to(precise) - image_cls_BD.to(precise)).unsqueeze(1)
        energy_BK = (difference_B1D * relevance_KD.to(precise)).sum(dim=-1)
        text_share_BK = torch.sigmoid(energy_BK if evidence_BK is None else energy_BK + evidence_BK)
    has_title_B1, has_image_B1 = present_B2[:, :1], present_B2[:, 1:]
    text_share_BK = torch.where(has_image_B1, text_share_BK, torch.ones_like(text_share_BK))
    text_share_BK = torch.where(has_title_B1, text_share_BK, torch.zeros_like(text_share_BK))
    share_BK1 = text_share_BK.unsqueeze(-1).to(text_cls_BD.dtype)
    fused_BKD = share_BK1 * text_cls_BD.unsqueeze(1) + (1 - share_BK1) * image_cls_BD.unsqueeze(1)
    return fused_BKD, text_share_BK


def mlp_head(
    fused_BD: Tensor, w1_HD: Tensor, b1_H: Tensor, w2_CH: Tensor, b2_C: Tensor, dropout: float = 0.0
) -> Tensor:
    """One task's logits [B, C]: linear, GELU, dropout, linear."""
    hidden_BH = F.gelu(F.linear(fused_BD, w1_HD, b1_H))
    return F.linear(F.dropout(hidden_BH, dropout, training=dropout > 0), w2_CH, b2_C)


def modality_heads(
    text_cls_BD: Tensor,
    image_cls_BD: Tensor,
    present_B2: Tensor,
    relevance_KD: Tensor | None,
    w1_KHD: Tensor,
    b1_KH: Tensor,
    w2_CH: Tensor,
    b2_C: Tensor,
    labels: Sequence[int],
    dropout: float = 0.0,
    evidence_BK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Both together, for every task.

    Args:
        labels: how many each task has; their rows follow one another in w2 and b2.
    Returns:
        logits [B, C], the tasks side by side, and λ [B, K].
    """
    tasks = len(labels)
    fused_BKD, text_share_BK = modality_attention(text_cls_BD, image_cls_BD, relevance_KD, present_B2, evidence_BK)
    fused_BKD = fused_BKD.expand(-1, tasks, -1)
    heads = zip(w1_KHD, b1_KH, w2_CH.split(list(labels)), b2_C.split(list(labels)), strict=True)
    logits = [mlp_head(fused_BKD[:, k], *weights, dropout) for k, weights in enumerate(heads)]
    return torch.cat(logits, dim=-1), text_share_BK.expand(-1, tasks)
