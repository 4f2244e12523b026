"""`model.kernels`: the same weights and the same training, whatever computes the heads."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from tiny import TASKS, tiny_config, tiny_network

from model.modality_heads import ModalityHeads
from model.tasks import SingleLabel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 5


def train(network: torch.nn.Module, steps: int) -> list[float]:
    """Losses of a few AdamW steps on random products, one of them without a title."""
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        input_ids = torch.randint(1, 8000, (BATCH, 16), generator=generator).to(DEVICE)
        pixels = torch.randint(0, 256, (BATCH, 64, 64, 3), dtype=torch.uint8, generator=generator).to(DEVICE)
        present = torch.ones(BATCH, 2, dtype=torch.bool, device=DEVICE)
        present[0, 0] = False
        logits, _ = network(input_ids, pixels, present)
        targets = (torch.randint(len(task.labels), (BATCH,), generator=generator).to(DEVICE) for task in TASKS)
        parts = zip(logits.split([len(task.labels) for task in TASKS], dim=1), targets, strict=True)
        loss = torch.stack([torch.nn.functional.cross_entropy(*part) for part in parts]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_with_the_kernels_is_training_with_the_reference():
    start = tiny_network(tiny_config(kernels="reference"))
    fused = tiny_network(tiny_config(kernels="triton"))
    fused.load_state_dict(start.state_dict())
    networks = [network.to(DEVICE).train() for network in (start, fused)]
    before = copy.deepcopy(start.modality_heads.state_dict())
    expected, losses = (train(network, steps=4) for network in networks)
    assert losses == pytest.approx(expected, rel=1e-4) and len({round(loss, 3) for loss in losses}) == 4
    for name, ours in fused.modality_heads.state_dict().items():
        theirs = start.modality_heads.state_dict()[name]
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert (theirs - before[name]).abs().max() > 8e-4, f"{name} has hardly moved"


def test_the_weights_do_not_know_the_switch():
    names = [list(tiny_network(tiny_config(kernels=switch)).state_dict()) for switch in ("auto", "triton", "reference")]
    assert names[0] == names[1] == names[2]
    heads = [name.removeprefix("modality_heads.") for name in names[0] if name.startswith("modality_heads.")]
    assert heads == ["relevance", "hidden_weight", "hidden_bias", "output_weight", "output_bias"]


def test_heads_start_as_linear_layers_do():
    torch.manual_seed(0)
    heads = ModalityHeads(TASKS, 128, 256, dropout=0.0)
    torch.manual_seed(0)
    torch.randn(len(TASKS), 128)
    for k, (task, output) in enumerate(zip(TASKS, heads.output_weight.split([3, 2]), strict=True)):
        first, second = torch.nn.Linear(128, 256), torch.nn.Linear(256, len(task.labels))
        assert torch.equal(heads.hidden_weight[k], first.weight) and torch.equal(output, second.weight)


@pytest.mark.parametrize(
    ("switch", "won", "used"),
    [("auto", True, DEVICE == "cuda"), ("auto", False, False), ("triton", False, True), ("reference", True, False)],
)
def test_the_switch_chooses_what_computes(switch, won, used, monkeypatch):
    called, asked = [], []
    monkeypatch.setattr("kernels.choice.takes_kernels", lambda *heads: asked.append(heads) or won)
    kernel = "kernels.modality_heads.modality_heads"
    monkeypatch.setattr(kernel, lambda *arguments: called.append(arguments) or (None, None))
    heads = ModalityHeads(TASKS, 128, 128, dropout=0.0, kernels=switch).to(DEVICE)
    heads(torch.zeros(2, 128, device=DEVICE), torch.zeros(2, 128, device=DEVICE), torch.ones(2, 2).bool().to(DEVICE))
    assert bool(called) == used and bool(asked) == (switch == "auto" and DEVICE == "cuda")


def test_sizes_that_the_kernels_cannot_are_refused_or_told(monkeypatch, caplog):
    with pytest.raises(ValueError, match="model.kernels: triton is impossible: width 96 .* use auto or reference"):
        ModalityHeads(TASKS, 96, 128, dropout=0.0, kernels="triton")
    many = [SingleLabel(name=f"t{i}", labels=["a", "b"]) for i in range(17)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING):
        ModalityHeads(many, 128, 128, dropout=0.0)
    assert "not by the fused kernels: 17 tasks, at most 16" in caplog.text
