"""One MLP head per task (paper, section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kernels import reference
from model.config import Task

# B batch, K tasks, D width, C labels of all tasks together


class Heads(nn.Module):
    """A head per task, each with one hidden layer."""

    def __init__(self, tasks: Sequence[Task], width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(MLPHead(width, hidden, len(task.labels), dropout) for task in tasks)

    def forward(self, fused_BKD: Tensor) -> Tensor:
        """Returns the logits of all tasks side by side, [B, C]."""
        return torch.cat([mlp(fused_BKD[:, k]) for k, mlp in enumerate(self.mlps)], dim=-1)


class MLPHead(nn.Module):
    """Linear, GELU, dropout, linear."""

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, classes)
        self.dropout = dropout

    def forward(self, fused_BD: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return reference.mlp_head(
            fused_BD, self.hidden.weight, self.hidden.bias, self.output.weight, self.output.bias, dropout
        )
