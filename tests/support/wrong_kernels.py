"""Fused kernels that are wrong in one gradient, and the sizes at which tests try them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.agreement import ARGUMENTS, Case, Heads
from kernels.modality_heads import modality_heads

CASE = Case(128, 128, (3, 17), True, torch.float32, torch.float32, None, True)


class _Scaled(torch.autograd.Function):
    """Itself forward; backward its gradient is `factor` times too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def wrong_gradient(name: str, factor: float = 1.01) -> Heads:
    """The fused kernels with one gradient off by a hundredth."""

    def heads(*inputs: Any, evidence_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if name == "evidence":
            return modality_heads(*inputs, evidence_BK=_Scaled.apply(evidence_BK, factor))
        place = ARGUMENTS.index(name)
        changed = (*inputs[:place], _Scaled.apply(inputs[place], factor), *inputs[place + 1 :])
        return modality_heads(*changed, evidence_BK=evidence_BK)

    return heads
