"""DeepSpeed's engine around a stage's objective: which weights decay, and how the learning rate goes."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from train.recipe import StageConfig


def create_engine(
    objective: nn.Module, settings: StageConfig, updates: int, ds_config: dict[str, Any]
) -> deepspeed.DeepSpeedEngine:
    """AdamW over what is trainable, its rate falling to 0 within so many updates."""
    optimizer = torch.optim.AdamW(parameter_groups(objective, settings.weight_decay), settings.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(updates, settings.warmup_fraction))
    return deepspeed.initialize(model=objective, optimizer=optimizer, lr_scheduler=schedule, config=ds_config)[0]


def has_finite_gradients(engine: deepspeed.DeepSpeedEngine) -> Tensor:
    """Before the step, where DeepSpeed itself does not look: ZeRO level 0. At the others `makes_step` finds out."""
    if engine.zero_optimization_stage() > 0 or engine.fp16_enabled():
        return torch.tensor(True)
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).isfinite()


def makes_step(engine: deepspeed.DeepSpeedEngine) -> bool:
    """Step, and say whether it was made: DeepSpeed leaves one out, on all ranks, whose gradient is not finite.

    In fp16 that is how its loss scale is found, and counts as made.
    """
    engine.step()
    return engine.was_step_applied() or engine.fp16_enabled()


def attention_kernel(device: torch.device, is_bf16: bool) -> AbstractContextManager[None]:
    """What computes attention.

    On a CPU torch's fused kernel takes five times as long for gradients in bf16 as in float32 (torch 2.14 on
    AVX512-BF16); plain matrix products do not.
    """
    return sdpa_kernel(SDPBackend.MATH) if is_bf16 and device.type == "cpu" else nullcontext()


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(total: int, warmup_fraction: float) -> Any:
    """Factor of the learning rate after n of `total` updates: linear up to 1, then cosine down to 0."""
    rising = max(1, round(total * warmup_fraction))

    def factor(update: int) -> float:
        if update < rising:
            return (update + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - rising) / max(1, total - rising))))

    return factor
