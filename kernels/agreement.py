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
FLOATS = ("text", "image", "relevance", "w1", "b1", "w2", "b2", "evidence")
ARGUMENTS = ("text", "image", "present", *FLOATS[2:-1], "first_label")  # of the heads, before `labels`


class Case(NamedTuple):
    """Sizes, dtypes and mode of the heads in a run, whatever the batch."""

    width: int
    hidden: int
    labels: tuple[int, ...]
    learned_share: bool
    tokens: torch.dtype
    weights: torch.dtype
    autocast: torch.dtype | None
    gradients: bool

    @classmethod
    def of(cls, text_BD: Tensor, relevance_KD: Tensor | None, w1_KHD: Tensor, labels: Sequence[int]) -> Case:
        """That of a call of the heads, here and now."""
        device, (_, hidden, width) = text_BD.device.type, w1_KHD.shape
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        sizes = width, hidden, tuple(labels), relevance_KD is not None
        return cls(*sizes, text_BD.dtype, w1_KHD.dtype, autocast, torch.is_grad_enabled())

    def __str__(self) -> str:
        return ", ".join(f"{name} {str(value).removeprefix('torch.')}" for name, value in self._asdict().items())


def plain(*inputs: Any, evidence_BK: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The reference, called as the fused kernels are."""
    *tensors, _, labels = inputs
    call: Heads = reference.modality_heads
    return call(*tensors, labels, evidence_BK=evidence_BK)


def sample(case: Case, batch: int, device: torch.device) -> dict[str, Tensor]:
    """Random ARGUMENTS and gradient of the logits; some products lack title or image. Torch's own generator rests."""
    generator = torch.Generator(device).manual_seed(batch)
    tasks, width, hidden, total = len(case.labels), case.width, case.hidden, sum(case.labels)

    def draw(dtype: torch.dtype, *shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=generator, device=device)).to(dtype)

    inputs = {name: draw(case.tokens, batch, width) for name in ("text", "image")}
    shapes = [(tasks, width), (tasks, hidden, width), (tasks, hidden), (total, hidden), (total,)]
    for name, shape in zip(FLOATS[2:-1], shapes, strict=True):
        if name != "relevance" or case.learned_share:
            inputs[name] = draw(case.weights, *shape, scale=shape[-1] ** -0.5)
    if case.learned_share:
        inputs["evidence"] = draw(torch.float32, batch, tasks)
    inputs["present"] = torch.ones(batch, 2, dtype=torch.bool, device=device)
    inputs["present"][1::4, 0], inputs["present"][2::4, 1] = False, False
    inputs["first_label"] = torch.tensor([0, *accumulate(case.labels)], device=device)
    return inputs | {"d_logits": draw(case.tokens, batch, total)}


def outputs(heads: Heads, case: Case, inputs: dict[str, Tensor], exact: bool = False) -> dict[str, Tensor]:
    """Logits and λ and, where the case has them, the logits' gradients of all FLOATS; `exact`: all in float64."""
    given = {name: x.double() if exact and x.is_floating_point() else x.detach() for name, x in inputs.items()}
    leaves = {name: given[name].requires_grad_(case.gradients) for name in FLOATS if name in given}
    rounded = case.autocast is not None and not exact
    autocast = torch.autocast(given["text"].device.type, case.autocast, enabled=rounded, cache_enabled=False)
    with torch.set_grad_enabled(case.gradients), autocast:
        logits_BC, text_share_BK = heads(*map(given.get, ARGUMENTS), case.labels, evidence_BK=given.get("evidence"))
    found = {"logits": logits_BC, "λ": text_share_BK}
    if case.gradients:
        gradients = torch.autograd.grad(logits_BC, list(leaves.values()), given["d_logits"].to(logits_BC.dtype))
        found |= {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    return found


def rounding_of_sums(rows: int, size: float) -> float:
    """How far float32 sums over so many rows may lie apart that are added in another order: √rows roundings.

    Seen on an H200: a gradient of 1,025 rows, whose products cuBLAS adds in several parts and the kernel one by one,
    was off by 1.2e-5 of its size, cuBLAS's by 4e-6.
    """
    return max(1e-6, rows**0.5 * torch.finfo(torch.float32).eps) * size


def fault(heads: Heads, case: Case, batch: int, device: torch.device) -> str | None:
    """The first value or gradient with over twice the reference's error, on the whole or at the worst place."""
    inputs = sample(case, batch, device)
    ours = outputs(heads, case, inputs)  # first, so that no right values lie about in memory that it may read
    theirs, exact = outputs(plain, case, inputs), outputs(plain, case, inputs, exact=True)
    for name, truth in exact.items():
        if ours[name].dtype != theirs[name].dtype:
            return f"{name} in {ours[name].dtype}, expected {theirs[name].dtype}"
        for norm in (2.0, float("inf")):
            error, own = (torch.linalg.vector_norm(x[name].double() - truth, norm).item() for x in (ours, theirs))
            order = rounding_of_sums(batch, torch.linalg.vector_norm(truth, norm).item())
            if not error <= 2 * own + order:  # NaN too
                where = f"(norm {norm:.0f}, batch {batch})"
                return f"{name} wrong by {error:.1e} where the reference is by {own:.1e} {where}"
    return None
