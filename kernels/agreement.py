"""Whether some way to compute the heads agrees with the reference: at most twice its error, in values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernels import reference

# B batch, K tasks, D width, H hidden units, C labels of all tasks together

Heads = Callable[..., tuple[Tensor, Tensor]]  # with the arguments of kernels.modality_heads.modality_heads


WEIGHTS = ("w1", "b1", "w2", "b2")


class Case(NamedTuple):
    """Sizes and dtypes of the heads in a run."""

    width: int
    hidden: int
    labels: tuple[int, ...]
    learned_share: bool
    tokens: torch.dtype
    weights: torch.dtype
    autocast: torch.dtype | None
    float32: str  # torch.get_float32_matmul_precision(): whether TF32 is allowed
    gradients: bool
    batch: int  # a power of two; 0 for any

    @classmethod
    def of(
        cls, text_BD: Tensor, relevance_KD: Tensor | None, w1_KHD: Tensor, labels: Sequence[int], batch: int
    ) -> Case:
        """That of a call of the heads, here and now; `batch` is rounded up."""
        device, (_, hidden, width) = text_BD.device.type, w1_KHD.shape
        return cls(
            width=width,
            hidden=hidden,
            labels=tuple(labels),
            learned_share=relevance_KD is not None,
            tokens=text_BD.dtype,
            weights=w1_KHD.dtype,
            autocast=torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None,
            float32=_float32_precision(),
            gradients=torch.is_grad_enabled(),
            batch=1 << (batch - 1).bit_length() if batch else 0,
        )

    def __str__(self) -> str:
        return ", ".join(f"{name} {str(value).removeprefix('torch.')}" for name, value in self._asdict().items())


@torch.compiler.assume_constant_result  # Dynamo cannot trace it
def _float32_precision() -> str:
    return torch.get_float32_matmul_precision()


class Sample(NamedTuple):
    """Inputs of the heads, and the gradients of their outputs."""

    leaves: dict[str, Tensor]
    present: Tensor
    first_label: Tensor
    output_gradients: tuple[Tensor, Tensor]


def plain(*inputs: Any) -> tuple[Tensor, Tensor]:
    """The reference, called as the fused kernels are."""
    text_BD, image_BD, present_B2, relevance_KD, w1_KHD, b1_KH, w2_CH, b2_C, _, labels = inputs
    return reference.modality_heads(text_BD, image_BD, present_B2, relevance_KD, w1_KHD, b1_KH, w2_CH, b2_C, labels)


def sample(case: Case, batch: int, device: torch.device) -> Sample:
    """Random products, some without title or image; torch's own random numbers stay as they are."""
    generator = torch.Generator(device).manual_seed(batch)
    tasks, width, hidden, total = len(case.labels), case.width, case.hidden, sum(case.labels)

    def draw(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, device=device)).to(dtype)

    leaves = {"text": draw(case.tokens, batch, width), "image": draw(case.tokens, batch, width)}
    if case.learned_share:
        leaves["relevance"] = draw(case.weights, tasks, width, scale=width**-0.5)
    leaves |= {
        "w1": draw(case.weights, tasks, hidden, width, scale=width**-0.5),
        "b1": draw(case.weights, tasks, hidden),
        "w2": draw(case.weights, total, hidden, scale=hidden**-0.5),
        "b2": draw(case.weights, total),
    }
    present = torch.ones(batch, 2, dtype=torch.bool, device=device)
    present[1::5, 0], present[2::7, 1] = False, False
    first_label = torch.tensor([0, *accumulate(case.labels)], device=device)
    return Sample(leaves, present, first_label, (draw(case.tokens, batch, total), draw(torch.float32, batch, tasks)))


def outputs(heads: Heads, case: Case, inputs: Sample, exact: bool = False) -> dict[str, Tensor]:
    """Logits and λ and, where the case has them, the gradients of text, image and weights.

    Args:
        exact: all in float64.
    """
    leaves = {
        name: (x.double() if exact else x.detach()).requires_grad_(case.gradients) for name, x in inputs.leaves.items()
    }
    rounded = case.autocast is not None and not exact
    device = inputs.present.device.type
    autocast = torch.autocast(device, case.autocast, enabled=rounded, cache_enabled=False)
    tokens, weights = (leaves["text"], leaves["image"], inputs.present), (leaves[name] for name in WEIGHTS)
    with torch.set_grad_enabled(case.gradients), autocast:
        values = heads(*tokens, leaves.get("relevance"), *weights, inputs.first_label, case.labels)
    found = dict(zip(("logits", "λ"), values, strict=True))
    if case.gradients:
        used = values if case.learned_share else values[:1]
        seeds = [gradient.to(x.dtype) for x, gradient in zip(used, inputs.output_gradients, strict=False)]
        gradients = torch.autograd.grad(used, list(leaves.values()), seeds)
        found |= {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return found


def fault(heads: Heads, case: Case, batch: int, device: torch.device) -> str | None:
    """The first value or gradient with over twice the reference's error, on the whole or at the worst place."""
    inputs = sample(case, batch, device)
    ours = outputs(heads, case, inputs)  # first, so that no right values lie about in memory that it may read
    theirs, exact = outputs(plain, case, inputs), outputs(plain, case, inputs, exact=True)
    for name, truth in exact.items():
        if ours[name].dtype != theirs[name].dtype:
            return f"{name} in {ours[name].dtype}, expected {theirs[name].dtype}"
        tiny = 1e-6 * truth.abs().max().item()
        for norm in (2.0, float("inf")):
            error, own = (torch.linalg.vector_norm(x[name].double() - truth, norm).item() for x in (ours, theirs))
            if not error <= 2 * own + tiny:  # NaN too
                return (
                    f"{name} wrong by {error:.1e} where the reference is by {own:.1e} (norm {norm:.0f}, batch {batch})"
                )
    return None
