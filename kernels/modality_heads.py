"""Modality-wise attention and the heads of all tasks: one launch forward, two backward (paper, section 2.3).

`kernels.reference.modality_heads` is the definition. torch.compile, torch.export and AOTInductor see the
operator `cma_clip::modality_heads`; eager code takes a shorter way to the same launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.library import custom_op, triton_op

from kernels.backward import backward
from kernels.blocks import WIDTH_STEP, Inputs
from kernels.forward import MOST_COUNTERS, forward

# B batch, K tasks, D width, H hidden units, C labels of all tasks together

INTERPRETED: bool = triton.knobs.runtime.interpret
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_TASKS = 16
MOST_LABELS = 1024


def modality_heads(
    text_cls_BD: Tensor,
    image_cls_BD: Tensor,
    present_B2: Tensor,
    relevance_KD: Tensor | None,
    w1_KHD: Tensor,
    b1_KH: Tensor,
    w2_CH: Tensor,
    b2_C: Tensor,
    first_label_K1: Tensor,
    labels: Sequence[int],
    dropout: float = 0.0,
    evidence_BK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`kernels.reference.modality_heads` by the fused kernels.

    Args:
        text_cls_BD, image_cls_BD: rows may lie apart.
        first_label_K1: where each task's labels begin in C, and C; int64, on the device.
        evidence_BK: float32.
        The rest as in the reference. All other floating-point tensors have one dtype, which is that of the matrix
        products and the logits; under autocast that is autocast's and theirs may be any.
    Returns:
        logits [B, C] and λ, float32 [B, K]. The gradients are the same bits every run.
    Raises:
        ValueError: devices, dtypes or shapes that do not fit, with their values.
    """
    device = text_cls_BD.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else text_cls_BD.dtype
    if relevance_KD is None:
        relevance_KD = w1_KHD.new_zeros(len(w1_KHD), w1_KHD.shape[2])
    floats = (text_cls_BD, image_cls_BD, relevance_KD, w1_KHD, b1_KH, w2_CH, b2_C)
    _check(floats, present_B2, first_label_K1, evidence_BK, labels, dtype, autocast)
    text_BD, image_BD = (x if x.stride(1) == 1 else x.contiguous() for x in (text_cls_BD, image_cls_BD))
    relevance_KD, w1_KHD, b1_KH, w2_CH, b2_C = (x.contiguous() for x in floats[2:])
    seed = torch.randint(2**62, (1,), device=text_cls_BD.device) if dropout else None
    evidence_BK = None if evidence_BK is None else evidence_BK.contiguous()
    learned = floats if evidence_BK is None else (*floats, evidence_BK)
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in learned)
    inputs = Inputs(
        text_BD, image_BD, present_B2.contiguous(), relevance_KD, w1_KHD, b1_KH, w2_CH, b2_C, first_label_K1
    )
    settings = (evidence_BK, seed, max(labels), dropout, dtype, save)
    if torch.compiler.is_compiling():
        logits_BC, text_share_BK, _ = _operator(*inputs, *settings)
    elif save:
        logits_BC, text_share_BK, _ = _Eager.apply(*inputs, *settings)
    else:
        logits_BC, text_share_BK, _ = forward(inputs, *settings, counters=_counters(text_BD))
    return logits_BC, text_share_BK


def unsupported(width: int, hidden: int, labels: Sequence[int]) -> str | None:
    """Why the kernels cannot compute heads of these sizes; None if they can."""
    if width % WIDTH_STEP or hidden % WIDTH_STEP:
        return f"width {width} and head width {hidden} must be multiples of {WIDTH_STEP}"
    if len(labels) > MOST_TASKS:
        return f"{len(labels)} tasks, at most {MOST_TASKS}"
    if max(labels) > MOST_LABELS:
        return f"a task with {max(labels)} labels, at most {MOST_LABELS}"
    return None


def _check(
    floats: tuple[Tensor, ...],
    present: Tensor,
    first_label: Tensor,
    evidence: Tensor | None,
    labels: Sequence[int],
    dtype: Any,
    autocast: bool,
) -> None:
    text, w1 = floats[0], floats[3]
    tensors = [*floats, present, first_label, *([] if evidence is None else [evidence])]
    if not text.is_cuda and not INTERPRETED:
        raise ValueError(f"the fused kernels need a CUDA device, got tensors on {text.device}")
    if any(tensor.device != text.device for tensor in tensors):
        devices = sorted({str(tensor.device) for tensor in tensors})
        raise ValueError(f"all tensors must be on one device, got {devices}")
    if dtype not in DTYPES or (not autocast and any(tensor.dtype != dtype for tensor in floats)):
        dtypes = sorted({str(tensor.dtype) for tensor in floats})
        raise ValueError(f"all tensors must be of one dtype among {[str(d) for d in DTYPES]}, got {dtypes}")
    if present.dtype != torch.bool or first_label.dtype != torch.int64:
        raise ValueError(f"present must be bool and first_label int64, got {present.dtype} and {first_label.dtype}")
    if evidence is not None and evidence.dtype != torch.float32:
        raise ValueError(f"evidence must be float32, got {evidence.dtype}")
    (batch, width), (tasks, hidden, _), total = text.shape, w1.shape, sum(labels)
    expected = [(batch, width), (batch, width), (tasks, width), (tasks, hidden, width), (tasks, hidden)]
    expected += [
        (total, hidden),
        (total,),
        (batch, 2),
        (len(labels) + 1,),
        *([] if evidence is None else [(batch, tasks)]),
    ]
    shapes = [tensor.shape for tensor in tensors]
    if shapes != expected or tasks != len(labels):
        raise ValueError(
            f"shapes {[tuple(s) for s in shapes]} do not fit {len(labels)} tasks with {list(labels)} labels: {expected}"
        )
    if reason := unsupported(width, hidden, labels):
        raise ValueError(f"the fused kernels cannot: {reason}")


_COUNTERS: dict[tuple[int, int], Tensor] = {}


def _counters(text: Tensor) -> Tensor | None:
    """The zeroed counters of this stream, whose kernels never overlap; None where they must be made anew."""
    if not text.is_cuda or torch.cuda.is_current_stream_capturing():
        return None
    key = text.device.index, torch.cuda.current_stream(text.device).cuda_stream
    if key not in _COUNTERS:
        _COUNTERS[key] = torch.zeros(MOST_COUNTERS, dtype=torch.int32, device=text.device)
    return _COUNTERS[key]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, evidence, _seed, ctx.max_labels, ctx.dropout, _dtype, _save = inputs
    _, text_share, saved = output
    ctx.has_evidence = evidence is not None
    ctx.save_for_backward(*tensors, text_share, saved)
    ctx.mark_non_differentiable(saved)
    ctx.set_materialize_grads(False)


def _backward_arguments(ctx: Any, d_logits: Tensor | None, d_share: Tensor | None) -> tuple[Inputs, tuple[Any, ...]]:
    *tensors, text_share, saved = ctx.saved_tensors
    inputs = Inputs(*tensors)
    batch, _, _, _, labels = inputs.sizes()
    d_logits = saved.new_zeros(batch, labels) if d_logits is None else d_logits.contiguous()
    d_share = None if d_share is None else d_share.contiguous()
    return inputs, (text_share, saved, d_logits, d_share, ctx.max_labels, ctx.dropout)


def _for_each_input(ctx: Any, text: Tensor, image: Tensor, *others: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operator's arguments: none for present, where labels begin, and settings."""
    *weights, evidence = others
    return (text, image, None, *weights, None, evidence if ctx.has_evidence else None, *5 * [None])


class _Eager(torch.autograd.Function):
    """The operator without the dispatcher, which costs the host time (BENCHMARKS.md)."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        inputs = Inputs(*arguments[:9])
        evidence, seed, max_labels, dropout, dtype, save = arguments[9:]
        return forward(inputs, evidence, seed, max_labels, dropout, dtype, save, _counters(inputs.text))

    setup_context = staticmethod(_setup_context)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logits: Tensor | None, d_share: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        inputs, others = _backward_arguments(ctx, d_logits, d_share)
        return _for_each_input(ctx, *backward(inputs, *others))


# The interpreter's kernels cannot be traced into.
_define = custom_op if INTERPRETED else triton_op


@_define("cma_clip::modality_heads", mutates_args=())
def _operator(
    text: Tensor,
    image: Tensor,
    present: Tensor,
    relevance: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    first_label: Tensor,
    evidence: Tensor | None,
    seed: Tensor | None,
    max_labels: int,
    dropout: float,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    inputs = Inputs(text, image, present, relevance, w1, b1, w2, b2, first_label)
    return forward(inputs, evidence, seed, max_labels, dropout, dtype, save)


@_operator.register_fake
def _(text: Tensor, image: Tensor, present: Tensor, relevance: Tensor, w1: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    (_, w2, *_, dtype, save), (batch, (tasks, hidden, _)) = rest, (text.shape[0], w1.shape)
    return (
        text.new_empty(batch, len(w2), dtype=dtype),
        text.new_empty(batch, tasks, dtype=torch.float32),
        text.new_empty((tasks, batch, hidden) if save else (0,), dtype=dtype),
    )


@_define("cma_clip::modality_heads_backward", mutates_args=())
def _backward_operator(
    text: Tensor,
    image: Tensor,
    present: Tensor,
    relevance: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    first_label: Tensor,
    text_share: Tensor,
    saved: Tensor,
    d_logits: Tensor,
    d_share: Tensor | None,
    max_labels: int,
    dropout: float,
) -> list[Tensor]:
    inputs = Inputs(text, image, present, relevance, w1, b1, w2, b2, first_label)
    return backward(inputs, text_share, saved, d_logits, d_share, max_labels, dropout)


@_backward_operator.register_fake
def _(text: Tensor, image: Tensor, present: Tensor, *rest: Any) -> list[Tensor]:
    *weights, _, text_share = rest[:7]
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (text, image, *weights, text_share)]


def _operator_backward(ctx: Any, d_logits: Tensor | None, d_share: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    inputs, others = _backward_arguments(ctx, d_logits, d_share)
    return _for_each_input(ctx, *_backward_operator(*inputs, *others))


_operator.register_autograd(_operator_backward, setup_context=_setup_context)
