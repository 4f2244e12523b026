"""The fused kernels against float64: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch
from philox import philox, uniform
from torch import Tensor

from kernels import agreement, reference
from kernels import modality_heads as fused
from kernels.blocks import Inputs
from kernels.forward import MOST_COUNTERS, forward

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT, BF16, HALF = torch.float32, torch.bfloat16, torch.float16
NAMES = ("logits", "λ", "text", "image", "relevance", "w1", "b1", "w2", "b2", "evidence")


class Case(NamedTuple):
    """Float64 values that `dtype` holds exactly, so that rounding the input is nobody's error."""

    tensors: tuple[Tensor, ...]
    present: Tensor
    labels: tuple[int, ...]
    weight_of_logits: Tensor
    weight_of_share: Tensor

    def first_label(self) -> Tensor:
        return torch.tensor([0, *np.cumsum(self.labels)], device=DEVICE)

    def to(self, dtype: torch.dtype) -> list[Tensor]:
        *tensors, evidence = self.tensors
        tensors = [tensor.to(dtype) for tensor in tensors]
        return [x.requires_grad_() for x in (*tensors, evidence.to(torch.promote_types(dtype, FLOAT)))]


def case(batch: int, width: int, hidden: int, labels: Sequence[int], dtype: torch.dtype = FLOAT) -> Case:
    generator = torch.Generator().manual_seed(batch + width + hidden + sum(labels))
    tasks, total = len(labels), sum(labels)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).double().to(DEVICE)

    tensors = (
        draw(batch, width),
        draw(batch, width),
        draw(tasks, width, scale=width**-0.5),
        draw(tasks, hidden, width, scale=width**-0.5),
        draw(tasks, hidden),
        draw(total, hidden, scale=hidden**-0.5),
        draw(total),
        draw(batch, tasks),
    )
    present = torch.ones(batch, 2, dtype=torch.bool, device=DEVICE)
    present[1::5, 0], present[2::7, 1] = False, False
    return Case(tensors, present, tuple(labels), draw(batch, total), draw(batch, tasks))


def outputs_and_gradients(case: Case, tensors: list[Tensor], function: Callable[..., tuple[Tensor, Tensor]]):
    """Logits, λ and the gradients of a weighted sum of both with respect to every tensor."""
    logits, share = function(*tensors[:2], case.present, *tensors[2:])
    loss = (logits * case.weight_of_logits.to(logits.dtype)).sum() + (
        share * case.weight_of_share.to(share.dtype)
    ).sum()
    return logits.detach(), share.detach(), *torch.autograd.grad(loss, tensors)


def by_reference(case: Case, dropout: float = 0.0) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *tensors: reference.modality_heads(*tensors[:8], case.labels, dropout, *tensors[8:])


def by_kernels(case: Case, dropout: float = 0.0) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda *tensors: fused.modality_heads(*tensors[:8], case.first_label(), case.labels, dropout, *tensors[8:])


def assert_no_worse_than_eager(ours: Sequence[Tensor], eager: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
    """At most twice eager's error and what sums in another order may differ, on the whole and at the worst place."""
    rows = len(exact[0])
    for name, a, b, truth in zip(NAMES, ours, eager, exact, strict=True):
        for norm in (2.0, float("inf")):
            error, allowed = (torch.linalg.vector_norm(x.double() - truth, norm).item() for x in (a, b))
            order = agreement.rounding_of_sums(rows, torch.linalg.vector_norm(truth, norm).item())
            assert error <= 2 * allowed + order, f"{name}: error {error:.3e}, eager's {allowed:.3e}, norm {norm}"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """torch.empty gives NaN, so that whatever a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


# Each table of tiles is entered on both sides of its limits: 64 rows, 512, 1024 and 2048 rows times tasks, 32, 64 and
# 128 labels.
IN_EVERY_DTYPE = {
    "one product, one task": (1, 128, 128, (2,)),
    "odd sizes, tasks of different size": (17, 256, 128, (3, 17, 40)),
    "the last small batch": (64, 128, 256, (12, 121)),
    "larger than a tile of labels": (127, 384, 128, (5, 2, 130, 33)),
}
AT_THE_LIMITS = {
    "tiles of few rows, many hidden units": (1023, 128, 256, (7,), BF16),
    "split hidden units, large tiles": (1025, 128, 256, (3, 2), BF16),
    "the same in float32": (1025, 128, 128, (3,), FLOAT),
    "as many labels as there may be": (3, 128, 128, (1024, 2), HALF),
    "as many tasks as there may be": (2, 128, 128, (2, 3) * 8, FLOAT),
    "full width": (5, 768, 512, (9,), BF16),
}
SHAPES = {f"{name}, {d}": (*shape, d) for name, shape in IN_EVERY_DTYPE.items() for d in (FLOAT, BF16, HALF)}
SHAPES |= AT_THE_LIMITS


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_equal_float64(name):
    batch, width, hidden, labels, dtype = SHAPES[name]
    data = case(batch, width, hidden, labels, dtype)
    exact = outputs_and_gradients(data, data.to(torch.float64), by_reference(data))
    eager = outputs_and_gradients(data, data.to(dtype), by_reference(data))
    ours = outputs_and_gradients(data, data.to(dtype), by_kernels(data))
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in eager]
    assert_no_worse_than_eager(ours, eager, exact)


def test_rows_may_lie_apart_and_weights_in_any_order():
    data = case(9, 128, 128, (3, 4))
    text, image, relevance, w1, b1, w2, b2, evidence = data.to(FLOAT)
    expected = outputs_and_gradients(data, [text, image, relevance, w1, b1, w2, b2, evidence], by_kernels(data))
    sequence = torch.stack([text, image, text], dim=1).detach()  # [B, S, D], as sequence attention returns it
    apart = [sequence[:, 0], sequence.transpose(1, 2).contiguous().transpose(1, 2)[:, 1]]
    weights = [
        relevance,
        w1.detach().transpose(1, 2).contiguous().transpose(1, 2),
        b1,
        w2.detach().t().contiguous().t(),
        b2,
        evidence.detach().t().contiguous().t(),
    ]
    strided = [tensor.detach().requires_grad_() for tensor in (*apart, *weights)]
    assert [tensor.is_contiguous() for tensor in strided] == [False, False, True, False, True, False, True, False]
    for ours, theirs in zip(outputs_and_gradients(data, strided, by_kernels(data)), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_same_inputs_give_the_same_bits():
    data = case(130, 128, 256, (12, 40), BF16)
    first, second = (outputs_and_gradients(data, data.to(BF16), by_kernels(data)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_counters_are_left_zero_for_the_next_launch():
    data = case(70, 128, 256, (3, 40), BF16)
    text, image, *weights, evidence = (tensor.detach() for tensor in data.to(BF16))
    inputs = Inputs(text, image, data.present, *weights, data.first_label())
    counters = torch.zeros(MOST_COUNTERS, dtype=torch.int32, device=DEVICE)
    expected = forward(inputs, evidence, None, 40, 0.0, BF16, False)[0]
    for _ in range(2):
        assert torch.equal(forward(inputs, evidence, None, 40, 0.0, BF16, False, counters)[0], expected)
        assert not counters.any()


def test_an_absent_modality_has_no_share_and_no_gradient():
    data = case(8, 128, 128, (3,))
    logits, share, text, image, *_ = outputs_and_gradients(data, data.to(FLOAT), by_kernels(data))
    no_title, no_image = ~data.present[:, 0], ~data.present[:, 1]
    assert no_title.any() and (share[no_title] == 0).all() and not text[no_title].any() and text[~no_title].all()
    assert no_image.any() and (share[no_image] == 1).all() and not image[no_image].any() and image[~no_image].all()


def test_without_relevance_lambda_is_one_half():
    data = case(4, 128, 128, (3, 2))
    text, image, _, *weights, _ = data.to(FLOAT)
    inputs = (text, image, torch.ones_like(data.present), None, *weights)
    logits, share = by_kernels(data)(*inputs)
    expected, expected_share = by_reference(data)(*inputs)
    assert torch.equal(share, expected_share) and (share == 0.5).all()
    torch.testing.assert_close(logits, expected)


def test_evidence_alone_moves_lambda_and_gets_the_gradient_of_its_energy():
    data = case(9, 128, 128, (3, 2))
    *tensors, evidence = data.to(FLOAT)
    inputs = (*tensors[:2], data.present, *tensors[2:])
    without, at_zero, moved = (
        by_kernels(data)(*inputs, *given)[1] for given in ((), (torch.zeros_like(evidence),), (evidence,))
    )
    both = data.present.all(dim=1)
    assert torch.equal(without, at_zero)
    torch.testing.assert_close(moved[both].logit(), (without.logit() + evidence)[both])
    (gradient,) = torch.autograd.grad(by_kernels(data)(*inputs, evidence)[1].sum(), evidence)
    torch.testing.assert_close(gradient, moved * (1 - moved) * both[:, None])


def test_an_output_that_nobody_uses_has_no_gradient():
    data = case(4, 128, 128, (3, 2))
    tensors = data.to(FLOAT)
    for use in (0, 1):
        ours, theirs = (
            torch.autograd.grad(f(*tensors[:2], data.present, *tensors[2:])[use].sum(), tensors[:3])
            for f in (by_kernels(data), by_reference(data))
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_an_empty_batch_gives_empty_outputs_and_zero_gradients():
    data = case(0, 128, 128, (3, 2))
    logits, share, *gradients = outputs_and_gradients(data, data.to(FLOAT), by_kernels(data))
    assert logits.shape == (0, 5) and share.shape == (0, 2)
    assert [g.shape for g in gradients] == [t.shape for t in data.tensors] and not any(g.any() for g in gradients)


@pytest.mark.parametrize("dtype", [BF16, HALF])
def test_under_autocast_the_kernels_round_as_autocast_does(dtype):
    data = case(17, 128, 128, (3, 17))

    def autocast(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
        return torch.autocast(DEVICE, dtype)(function)

    exact = outputs_and_gradients(data, data.to(torch.float64), by_reference(data))
    eager = outputs_and_gradients(data, data.to(FLOAT), autocast(by_reference(data)))
    ours = outputs_and_gradients(data, data.to(FLOAT), autocast(by_kernels(data)))
    assert ours[0].dtype == eager[0].dtype == dtype and {t.dtype for t in ours[1:]} == {FLOAT}
    assert_no_worse_than_eager(ours, eager, exact)


def test_philox_gives_the_known_answer_of_its_authors():
    assert philox(np.zeros(1, np.uint64), 0).tolist() == [[0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]]


@pytest.mark.parametrize("dtype", [FLOAT, BF16])
def test_dropout_keeps_what_an_independent_philox_keeps_in_both_directions(dtype, monkeypatch):
    dropout, seed, batch, hidden = 0.25, 0x123456789ABCDEF, 70, 128
    data = case(batch, 128, hidden, (3, 17), dtype)
    counters = np.arange(2 * batch * hidden // 4, dtype=np.uint64)
    kept = torch.from_numpy(uniform(philox(counters, seed)).reshape(2, batch, hidden) >= dropout).to(DEVICE)
    assert kept.float().mean().item() == pytest.approx(1 - dropout, abs=0.01)
    monkeypatch.setattr(torch, "randint", lambda *_, device: torch.tensor([seed], device=device))

    def masked(text, image, present, relevance, w1, b1, w2, b2, evidence):
        blended, share = reference.modality_attention(text, image, relevance, present, evidence)
        logits = []
        for k, (w, b) in enumerate(zip(w2.split(data.labels), b2.split(data.labels), strict=True)):
            hidden = torch.nn.functional.gelu(blended[:, k] @ w1[k].t() + b1[k])
            logits.append((hidden * kept[k] / (1 - dropout)) @ w.t() + b)
        return torch.cat(logits, dim=1), share

    exact = outputs_and_gradients(data, data.to(torch.float64), masked)
    eager = outputs_and_gradients(data, data.to(dtype), masked)
    assert_no_worse_than_eager(outputs_and_gradients(data, data.to(dtype), by_kernels(data, dropout)), eager, exact)


def test_each_call_drops_other_units_and_a_seed_repeats_them():
    data = case(4, 128, 128, (3,))
    inputs = (*data.to(FLOAT)[:2], data.present, *data.to(FLOAT)[2:])
    torch.manual_seed(0)
    first, second = (by_kernels(data, dropout=0.5)(*inputs)[0] for _ in range(2))
    torch.manual_seed(0)
    assert not torch.equal(first, second) and torch.equal(by_kernels(data, dropout=0.5)(*inputs)[0], first)


def test_gradients_of_the_reference():
    data = case(3, 4, 5, (2, 3))
    function = lambda *tensors: by_reference(data)(*tensors[:2], data.present, *tensors[2:])  # noqa: E731
    assert torch.autograd.gradcheck(function, data.to(torch.float64))


def operator_arguments(data: Case, dropout: float = 0.0) -> tuple[object, ...]:
    text, image, *weights, evidence = data.to(FLOAT)
    seed = torch.tensor([5], device=DEVICE) if dropout else None
    return (
        text,
        image,
        data.present,
        *weights,
        data.first_label(),
        evidence,
        seed,
        max(data.labels),
        dropout,
        FLOAT,
        True,
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_operator_passes_opcheck(dropout):
    torch.use_deterministic_algorithms(False)  # opcheck compares unwritten memory, too
    arguments = operator_arguments(case(5, 128, 128, (3, 17)), dropout)
    torch.library.opcheck(torch.ops.cma_clip.modality_heads.default, arguments)


def test_a_compiled_module_computes_the_same_in_one_graph():
    data = case(6, 128, 128, (3, 17))
    expected = outputs_and_gradients(data, data.to(FLOAT), by_kernels(data))
    first_label = data.first_label()

    @torch.compile(backend="inductor" if DEVICE == "cuda" else "aot_eager", fullgraph=True)
    def compiled(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return fused.modality_heads(*tensors[:8], first_label, data.labels, 0.0, *tensors[8:])

    for ours, theirs in zip(outputs_and_gradients(data, data.to(FLOAT), compiled), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


REFUSED = {
    "another width": ({"image": torch.zeros(4, 256)}, r"shapes .*\(4, 256\).* do not fit 2 tasks with \[3, 2\] labels"),
    "another batch": ({"present": torch.ones(3, 2, dtype=torch.bool)}, r"shapes .*\(3, 2\).* do not fit"),
    "another number of labels": ({"b2": torch.zeros(6)}, r"shapes .*\(6,\).* do not fit"),
    "mixed dtypes": ({"b1": torch.zeros(2, 128, dtype=HALF)}, r"one dtype .*got \['torch.float16', 'torch.float32'\]"),
    "mixed devices": ({"b1": torch.zeros(2, 128, device="meta")}, r"one device, got \['c.*', 'meta'\]"),
    "evidence of another batch": ({"evidence": torch.zeros(3, 2)}, r"shapes .*\(3, 2\)\] do not fit"),
    "evidence in another dtype": (
        {"evidence": torch.zeros(4, 2, dtype=HALF)},
        "evidence must be float32, got torch.float16",
    ),
    "present as numbers": ({"present": torch.ones(4, 2)}, "present must be bool .*got torch.float32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unfit_tensors_are_refused_with_their_values(name):
    changed, message = REFUSED[name]
    data = case(4, 128, 128, (3, 2))
    names = ("text", "image", "present", "relevance", "w1", "b1", "w2", "b2", "evidence")
    tensors = data.to(FLOAT)
    inputs = dict(zip(names, (*tensors[:2], data.present, *tensors[2:]), strict=True)) | {
        key: value if value.is_meta else value.to(DEVICE) for key, value in changed.items()
    }
    with pytest.raises(ValueError, match=message):
        by_kernels(data)(*inputs.values())


def test_float64_is_refused():
    data = case(4, 128, 128, (3, 2))
    with pytest.raises(ValueError, match=r"got \['torch.float64'\]"):
        outputs_and_gradients(data, data.to(torch.float64), by_kernels(data))


def test_without_a_gpu_the_kernels_say_so(monkeypatch):
    monkeypatch.setattr(fused, "INTERPRETED", False)
    data = case(4, 128, 128, (3, 2))
    tensors = [tensor.float().cpu() for tensor in data.tensors]
    with pytest.raises(ValueError, match="need a CUDA device, got tensors on cpu"):
        by_kernels(data)(*tensors[:2], data.present.cpu(), *tensors[2:])


@pytest.mark.parametrize(
    ("width", "hidden", "labels", "reason"),
    [
        (512, 512, (2, 1024), None),
        (768, 128, (5,) * 16, None),
        (500, 512, (2,), "width 500 and head width 512 must be multiples of 128"),
        (512, 64, (2,), "width 512 and head width 64 must be multiples of 128"),
        (512, 512, (2,) * 17, "17 tasks, at most 16"),
        (512, 512, (2, 1025), "a task with 1025 labels, at most 1024"),
    ],
)
def test_which_sizes_the_kernels_support(width, hidden, labels, reason):
    assert fused.unsupported(width, hidden, labels) == reason
