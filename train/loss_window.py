"""Losses that stay on the device until they are read, many updates at once: reading makes the host wait for it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# U updates, A micro-batches of an update, K tasks


class UpdateLoss(NamedTuple):
    """One update, counted from 1 over the stage: its mean loss on this rank, the parts by task, the learning rate."""

    update: int
    loss: float
    parts: dict[str, float]
    learning_rate: float


class LossWindow:
    """The updates since the last reading."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, float]] = []
        self.losses: list[Tensor] = []
        self.names: list[str] = []

    def __len__(self) -> int:
        return len(self.updates)

    def add(self, update: int, learning_rate: float, losses: Tensor, names: list[str]) -> None:
        """`losses` float32 [A, 1 + K]: what each micro-batch minimised, then its parts in the order of `names`."""
        self.updates.append((update, learning_rate))
        self.losses.append(losses)
        self.names = names

    def read(self) -> list[UpdateLoss]:
        """What was added since the last reading; the host waits once."""
        table_UAK = torch.stack(self.losses).tolist() if self.losses else []
        rows = zip(self.updates, table_UAK, strict=True)
        result = [UpdateLoss(update, *self._means(losses), learning_rate) for (update, learning_rate), losses in rows]
        self.updates, self.losses = [], []
        return result

    def _means(self, losses_AK: list[list[float]]) -> tuple[float, dict[str, float]]:
        loss, *parts = (sum(value / len(losses_AK) for value in values) for values in zip(*losses_AK, strict=True))
        return loss, dict(zip(self.names, parts, strict=True))
