"""Per task: how far to trust the title against the image, and an MLP head (paper, section 2.3)."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from kernels import reference
from model.tasks import Task

# B batch, K tasks, D width, H hidden units, C labels of all tasks together

logger = logging.getLogger(__name__)


class ModalityHeads(nn.Module):
    """Modality-wise attention and heads of all tasks, their weights side by side.

    Args:
        tasks: in the order of the logits.
        width: D.
        hidden: H.
        dropout: after the hidden layer.
        learned_share: False fixes λ at 0.5 (section 4, "without MWA").
        kernels: `triton` computes by the fused kernels, `reference` in plain PyTorch; `auto` by the kernels where
            they are right and faster on the GPU at hand (kernels.choice). The weights are the same.
    Raises:
        ValueError: `triton` is asked for and cannot be.
    """

    first_label: Tensor

    def __init__(
        self,
        tasks: Sequence[Task],
        width: int,
        hidden: int,
        dropout: float,
        learned_share: bool = True,
        kernels: Literal["auto", "triton", "reference"] = "auto",
    ) -> None:
        super().__init__()
        self.labels = tuple(task.columns for task in tasks)
        self.dropout, self.kernels = dropout, kernels
        self.relevance = nn.Parameter(0.02 * torch.randn(len(tasks), width)) if learned_share else None
        layers = [(nn.Linear(width, hidden), nn.Linear(hidden, labels)) for labels in self.labels]
        self.hidden_weight = nn.Parameter(torch.stack([first.weight.detach() for first, _ in layers]))
        self.hidden_bias = nn.Parameter(torch.stack([first.bias.detach() for first, _ in layers]))
        self.output_weight = nn.Parameter(torch.cat([second.weight.detach() for _, second in layers]))
        self.output_bias = nn.Parameter(torch.cat([second.bias.detach() for _, second in layers]))
        self.register_buffer("first_label", torch.tensor([0, *accumulate(self.labels)]), persistent=False)
        self.obstacle = _obstacle(width, hidden, self.labels)
        if self.obstacle and kernels == "triton":
            raise ValueError(f"model.kernels: triton is impossible: {self.obstacle}; use auto or reference")
        if self.obstacle and kernels == "auto" and torch.cuda.is_available():
            logger.warning("the heads run in plain PyTorch, not by the fused kernels: %s", self.obstacle)

    def forward(
        self, text_cls_BD: Tensor, image_cls_BD: Tensor, present_B2: Tensor, evidence_BK: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits of all tasks side by side, [B, C], and λ, float32 [B, K].

        Args:
            evidence_BK: what else speaks for the title (kernels.reference); says nothing where λ is not learned.
        """
        evidence_BK = None if self.relevance is None else evidence_BK
        inputs = (text_cls_BD, image_cls_BD, present_B2, self.relevance)
        weights = (self.hidden_weight, self.hidden_bias, self.output_weight, self.output_bias)
        dropout = self.dropout if self.training else 0.0
        if self._by_kernels(text_cls_BD):
            from kernels.modality_heads import modality_heads

            return modality_heads(*inputs, *weights, self.first_label, self.labels, dropout, evidence_BK)
        return reference.modality_heads(*inputs, *weights, self.labels, dropout, evidence_BK)

    def of_task(self, task: int) -> list[Tensor]:
        """The weights that are this task's alone, where they lie."""
        labels = slice(int(self.first_label[task]), int(self.first_label[task + 1]))
        relevance = [] if self.relevance is None else [self.relevance[task]]
        return [
            *relevance,
            self.hidden_weight[task],
            self.hidden_bias[task],
            self.output_weight[labels],
            self.output_bias[labels],
        ]

    def _by_kernels(self, text_cls_BD: Tensor) -> bool:
        if self.kernels != "auto" or not text_cls_BD.is_cuda or self.obstacle:
            return self.kernels == "triton"
        from kernels.choice import takes_kernels

        return takes_kernels(text_cls_BD, self.relevance, self.hidden_weight, self.labels)


def _obstacle(width: int, hidden: int, labels: Sequence[int]) -> str | None:
    """Why the fused kernels cannot compute these heads, None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    from kernels.modality_heads import unsupported

    return unsupported(width, hidden, labels)
