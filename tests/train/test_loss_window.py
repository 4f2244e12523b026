"""Losses that wait on the device, and flags that the ranks share."""

from __future__ import annotations

import pytest
import torch

from train.loss_window import LossWindow, UpdateLoss
from train.ranks import Ranks

CPU = torch.device("cpu")


def test_many_updates_are_read_at_once(monkeypatch: pytest.MonkeyPatch):
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: reads.append(self.shape) or tolist(self))
    window = LossWindow()
    # two micro-batches an update; loss, color, pattern
    window.add(7, 1e-3, torch.tensor([[1.0, 2.0, 4.0], [3.0, 6.0, 0.0]]), ["color", "pattern"])
    window.add(8, 2e-3, torch.tensor([[0.5, 1.0, 1.0], [0.25, 1.0, 3.0]]), ["color", "pattern"])
    assert len(window) == 2 and not reads
    assert window.read() == [
        UpdateLoss(7, 2.0, {"color": 4.0, "pattern": 2.0}, 1e-3),
        UpdateLoss(8, 0.375, {"color": 1.0, "pattern": 2.0}, 2e-3),
    ]
    assert reads == [(2, 2, 3)] and len(window) == 0 and window.read() == []


def test_ranks_share_all_their_flags_in_one_collective(monkeypatch: pytest.MonkeyPatch):
    calls = []

    def with_another_rank(mine: torch.Tensor, operation: object) -> None:
        calls.append(operation)
        mine.copy_(torch.maximum(mine, torch.tensor([0.0, 1.0, 0.0])))

    monkeypatch.setattr("torch.distributed.all_reduce", with_another_rank)
    assert Ranks(0, 2, CPU).any(False, False, torch.tensor(True)) == [False, True, True]
    assert calls == [torch.distributed.ReduceOp.MAX]
    assert Ranks(0, 1, CPU).any(torch.tensor(False), True) == [False, True] and len(calls) == 1
