"""λ and the heads by hand-computed values, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from kernels.reference import mlp_head, modality_attention

BOTH = torch.ones(1, 2, dtype=torch.bool)


def test_lambda_and_the_weighted_sum_by_hand():
    text, image = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]])
    relevance = torch.tensor([[0.5, 0.25], [0.0, 0.0]])
    fused, share = modality_attention(text, image, relevance, BOTH)
    e_t, e_i = math.exp(0.5 * 1 + 0.25 * 2), math.exp(0.5 * 3 - 0.25)
    first = e_t / (e_t + e_i)
    assert share.tolist() == [[pytest.approx(first), 0.5]]
    assert fused[0, 0].tolist() == pytest.approx([first * 1 + (1 - first) * 3, first * 2 - (1 - first)])
    assert fused[0, 1].tolist() == pytest.approx([2.0, 0.5])


def test_evidence_is_added_to_the_energy_of_the_title():
    text, image, relevance = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, -1.0]]), torch.tensor([[0.5, 0.25]])
    _, share = modality_attention(text, image, relevance, BOTH, torch.tensor([[0.75]]))
    e_t, e_i = math.exp(0.5 * 1 + 0.25 * 2 + 0.75), math.exp(0.5 * 3 - 0.25)
    assert share.item() == pytest.approx(e_t / (e_t + e_i))


def test_extreme_relevance_stays_finite():
    text, image = torch.full((1, 4), 100.0), torch.full((1, 4), -100.0)
    fused, share = modality_attention(text, image, torch.full((1, 4), 9.0), BOTH)
    assert share.item() == 1.0 and torch.equal(fused[:, 0], text)


@pytest.mark.parametrize(("present", "share"), [((True, False), 1.0), ((False, True), 0.0)])
@pytest.mark.parametrize("learned", [True, False])
def test_an_absent_modality_has_no_share_and_no_gradient(present, share, learned):
    text, image = torch.randn(1, 4, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    fused, shares = modality_attention(text, image, torch.randn(1, 4) if learned else None, torch.tensor([present]))
    fused.sum().backward()
    kept, absent = (text, image) if present[0] else (image, text)
    assert (shares == share).all() and torch.equal(fused[:, 0], kept)
    assert (kept.grad == 1).all() and not absent.grad.any()


def test_share_is_float32_under_bfloat16():
    text, image = (torch.randn(5, 8, dtype=torch.bfloat16) for _ in range(2))
    fused, share = modality_attention(text, image, torch.randn(3, 8), torch.ones(5, 2, dtype=torch.bool))
    assert fused.dtype == torch.bfloat16 and fused.shape == (5, 3, 8) and share.dtype == torch.float32


def test_gradients_of_the_head():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (5, 4), (5,), (2, 5), (2,)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(mlp_head, inputs)


def test_gradients_of_lambda():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (3, 4), (2, 4)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes]
    present = torch.ones(3, 2, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda *arguments: modality_attention(*arguments, present), inputs)


def test_dropout_scales_what_it_keeps():
    torch.manual_seed(0)
    identity, zero = torch.eye(1000), torch.zeros(1000)
    hidden = mlp_head(torch.full((1, 1000), 50.0), identity, zero, identity, zero, dropout=0.25)
    assert hidden.unique().tolist() == [0.0, pytest.approx(50 / 0.75, rel=1e-5)]
    assert (hidden == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
