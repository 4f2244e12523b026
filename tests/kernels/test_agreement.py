"""The comparison finds what is wrong, and only that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from wrong_kernels import CASE, wrong_gradient

from kernels import agreement
from kernels.agreement import Case, Heads
from kernels.modality_heads import modality_heads

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
FLOAT, BF16 = torch.float32, torch.bfloat16


def wrong_value(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Heads:
    return lambda *inputs, **others: change(*modality_heads(*inputs, **others))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("learned_share", [True, False])
@pytest.mark.parametrize(
    ("tokens", "weights", "autocast"), [(FLOAT, FLOAT, None), (BF16, BF16, None), (FLOAT, FLOAT, BF16)]
)
def test_the_kernels_agree_with_the_reference(gradients, learned_share, tokens, weights, autocast):
    case = Case(128, 128, (3, 17), learned_share, tokens, weights, autocast, gradients)
    assert agreement.fault(modality_heads, case, 5, DEVICE) is None


@pytest.mark.parametrize("name", ["text", "image", "relevance", "w1", "b1", "w2", "b2", "evidence"])
def test_one_wrong_gradient_is_named_and_matters_only_where_gradients_are_wanted(name):
    assert agreement.fault(wrong_gradient(name), CASE, 5, DEVICE).startswith(f"gradient of {name} wrong by ")
    assert agreement.fault(wrong_gradient(name), CASE._replace(gradients=False), 5, DEVICE) is None


def one_logit_missing(logits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.clone()
    logits[3, 7] = float("nan")
    return logits, share


WRONG = {
    "logits wrong by ": lambda logits, share: (logits * 1.001, share),
    "logits wrong by nan": one_logit_missing,
    "λ wrong by ": lambda logits, share: (logits, share + 1e-4),
    "λ in torch.float64, expected torch.float32": lambda logits, share: (logits, share.double()),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_value_is_named(message):
    for gradients in (False, True):
        case = CASE._replace(gradients=gradients)
        assert agreement.fault(wrong_value(WRONG[message]), case, 5, DEVICE).startswith(message)


def test_a_fault_at_one_place_alone_is_found_in_bfloat16():
    """One logit that is off by a tenth hides in the norm over 1,000 products, but not at the worst place."""

    def change(logits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits.clone()
        logits[500, 3] += 0.1
        return logits, share

    case = CASE._replace(tokens=BF16, weights=BF16, gradients=False)
    assert "norm inf, batch 1000" in agreement.fault(
        lambda *inputs, **others: change(*agreement.plain(*inputs, **others)), case, 1000, DEVICE
    )


def test_a_comparison_draws_none_of_torchs_random_numbers():
    torch.manual_seed(7)
    state = torch.get_rng_state()
    inputs = agreement.sample(CASE, 5, DEVICE)
    assert torch.equal(torch.get_rng_state(), state)
    again = agreement.sample(CASE, 5, DEVICE)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    present = agreement.sample(CASE, 64, DEVICE)["present"]
    assert (~present).any(dim=0).all() and present.any(dim=1).all()


def test_a_case_is_that_of_the_call():
    text, w1 = torch.zeros(33, 256, dtype=BF16), torch.zeros(2, 128, 256)
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        case = Case.of(text, None, w1, [3, 17])
    assert case == Case(256, 128, (3, 17), False, BF16, FLOAT, torch.float16, False)
    case = Case.of(text, torch.zeros(2, 256), w1, [3, 17])
    assert case == Case(256, 128, (3, 17), True, BF16, FLOAT, None, True)
