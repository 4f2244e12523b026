"""The two backward kernels and their launcher."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from kernels.blocks import Inputs, Tiles, dot, gelu, gelu_slope, tokens


@triton.jit
def _d_active(d_logits, w2, rows, labels, units, batch, end, hidden, num_labels, total, TF32: tl.constexpr):
    """Adds these labels' part of the gradient of the hidden units [rows, units]."""
    known = labels < end
    places = rows.to(tl.int64)[:, None] * num_labels + labels[None, :]
    g = tl.load(d_logits + places, mask=(rows < batch)[:, None] & known[None, :], other=0.0)
    w = tl.load(w2 + labels[:, None] * hidden + units[None, :], mask=known[:, None], other=0.0)
    return dot(g, w.to(g.dtype), total, TF32)


@triton.jit(do_not_specialize=["batch", "num_tasks", "num_labels"])
def _backward_rows_kernel(
    text,
    image,
    w1,
    w2,
    first_label,
    saved,
    d_logits,  # [B, C]
    batch,
    width,
    hidden,
    num_tasks,
    num_labels,
    text_stride,
    image_stride,
    dropout,
    d_first,  # [K, B, H]: gradient of the first layer's output
    d_fused,  # [K, B, D]: gradient of the weighted sum
    d_share,  # float32 [D / BLOCK_D, K, B]: gradient of λ, in parts
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ONE_LABEL_TILE: tl.constexpr,
    TF32: tl.constexpr,
):
    DTYPE: tl.constexpr = d_first.dtype.element_ty
    row_tile, width_tile, task = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows = row_tile * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = width_tile * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = (rows < batch)[:, None]
    row_places = (task * batch + rows).to(tl.int64)[:, None]
    begin, end = tl.load(first_label + task).to(tl.int32), tl.load(first_label + task + 1).to(tl.int32)

    fused = tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for h in range(0, hidden, BLOCK_H):
        units = h + tl.arange(0, BLOCK_H)
        active = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        if ONE_LABEL_TILE:  # without an inner loop, the loads of this one are pipelined
            labels = begin + tl.arange(0, BLOCK_C)
            active = _d_active(d_logits, w2, rows, labels, units, batch, end, hidden, num_labels, active, TF32)
        else:
            for label in range(begin, end, BLOCK_C):
                labels = label + tl.arange(0, BLOCK_C)
                active = _d_active(d_logits, w2, rows, labels, units, batch, end, hidden, num_labels, active, TF32)
        first = tl.load(saved + row_places * hidden + units[None, :], mask=inside, other=0.0).to(tl.float32)
        first = (active * gelu_slope(first) / (1.0 - dropout)).to(DTYPE)
        if width_tile == 0:
            tl.store(d_first + row_places * hidden + units[None, :], first, mask=inside)
        w = tl.load(w1 + (task * hidden + units)[:, None] * width + columns[None, :])
        fused = dot(first, w.to(DTYPE), fused, TF32)

    tl.store(d_fused + row_places * width + columns[None, :], fused.to(DTYPE), mask=inside)
    t, i = tokens(text, image, text_stride, image_stride, rows, columns, batch)
    part = (width_tile * num_tasks + task) * batch + rows
    tl.store(d_share + part, tl.sum(fused * (t - i), axis=1), mask=rows < batch)


@triton.jit
def _d_energy(present, text_share, d_text_share, d_share, task, rows, batch, num_tasks, parts, HAS_D_SHARE):
    """λ of the rows, and the gradient of w·(text - image); zero where λ was forced."""
    inside = rows < batch
    share = tl.load(text_share + rows * num_tasks + task, mask=inside, other=0.0)
    gradient = tl.zeros_like(share)
    for part in range(parts):
        gradient += tl.load(d_share + (part * num_tasks + task) * batch + rows, mask=inside, other=0.0)
    if HAS_D_SHARE:
        gradient += tl.load(d_text_share + rows * num_tasks + task, mask=inside, other=0.0)
    learned = tl.load(present + 2 * rows, mask=inside, other=0) & tl.load(present + 2 * rows + 1, mask=inside, other=0)
    return share, tl.where(learned != 0, gradient * share * (1.0 - share), 0.0)


@triton.jit
def _d_first_layer(
    text, image, text_share, d_first, d_w1, d_b1, task, h, d, batch, width, hidden, num_tasks, text_stride,
    image_stride, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """A tile of d_w1 [K, H, D]; the first tile of the width also writes d_b1 [K, H]."""
    units, columns = h + tl.arange(0, BLOCK_H), d + tl.arange(0, BLOCK_D)
    weight, bias = tl.zeros([BLOCK_H, BLOCK_D], tl.float32), tl.zeros([BLOCK_H], tl.float32)
    for b in range(0, batch, BLOCK_B):
        rows = b + tl.arange(0, BLOCK_B)
        row_places = (task * batch + rows).to(tl.int64)[None, :]
        g = tl.load(d_first + row_places * hidden + units[:, None], mask=(rows < batch)[None, :], other=0.0)
        t, i = tokens(text, image, text_stride, image_stride, rows, columns, batch)
        share = tl.load(text_share + rows * num_tasks + task, mask=rows < batch, other=0.0)[:, None]
        fused = share * t + (1.0 - share) * i
        weight = dot(g, fused.to(g.dtype), weight, TF32)
        bias += tl.sum(g.to(tl.float32), axis=1)
    places = (task * hidden + units)[:, None] * width + columns[None, :]
    tl.store(d_w1 + places, weight.to(d_w1.dtype.element_ty))
    if d == 0:
        tl.store(d_b1 + task * hidden + units, bias.to(d_b1.dtype.element_ty))


@triton.jit
def _d_second_layer(
    saved, d_logits, d_w2, d_b2, task, first, end, h, batch, hidden, num_labels, dropout,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, TF32: tl.constexpr,
):  # fmt: skip
    """A tile of d_w2 [C, H]; the first tile of the hidden units also writes d_b2 [C]."""
    labels, units = first + tl.arange(0, BLOCK_C), h + tl.arange(0, BLOCK_H)
    known = labels < end
    weight, bias = tl.zeros([BLOCK_C, BLOCK_H], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    for b in range(0, batch, BLOCK_B):
        rows = b + tl.arange(0, BLOCK_B)
        inside = rows < batch
        row_places = (task * batch + rows).to(tl.int64)[:, None]
        places = rows.to(tl.int64)[None, :] * num_labels + labels[:, None]
        g = tl.load(d_logits + places, mask=inside[None, :] & known[:, None], other=0.0)
        x = tl.load(saved + row_places * hidden + units[None, :], mask=inside[:, None], other=0.0)
        active = gelu(x.to(tl.float32)) / (1.0 - dropout)
        weight = dot(g.to(x.dtype), active.to(x.dtype), weight, TF32)
        bias += tl.sum(g.to(tl.float32), axis=1)
    places = labels[:, None] * hidden + units[None, :]
    tl.store(d_w2 + places, weight.to(d_w2.dtype.element_ty), mask=known[:, None])
    if h == 0:
        tl.store(d_b2 + labels, bias.to(d_b2.dtype.element_ty), mask=known)


@triton.jit
def _d_tokens(
    present, relevance, text_share, d_text_share, d_fused, d_share, d_text, d_image, d_evidence, b, d, batch, width,
    num_tasks, parts, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, HAS_D_SHARE: tl.constexpr,
):  # fmt: skip
    """A tile of d_text and d_image [B, D]: the sum over tasks. The first of the width also writes d_evidence [B, K]."""
    rows, columns = b + tl.arange(0, BLOCK_B), d + tl.arange(0, BLOCK_D)
    inside = (rows < batch)[:, None]
    for_text, for_image = tl.zeros([BLOCK_B, BLOCK_D], tl.float32), tl.zeros([BLOCK_B, BLOCK_D], tl.float32)
    for task in range(num_tasks):
        share, energy = _d_energy(
            present, text_share, d_text_share, d_share, task, rows, batch, num_tasks, parts, HAS_D_SHARE
        )
        places = (task * batch + rows).to(tl.int64)[:, None] * width + columns[None, :]
        g = tl.load(d_fused + places, mask=inside, other=0.0).to(tl.float32)
        w = energy[:, None] * tl.load(relevance + task * width + columns).to(tl.float32)[None, :]
        for_text += share[:, None] * g + w
        for_image += (1.0 - share[:, None]) * g - w
        if d == 0:
            tl.store(d_evidence + rows * num_tasks + task, energy, mask=rows < batch)
    places = rows.to(tl.int64)[:, None] * width + columns[None, :]
    tl.store(d_text + places, for_text.to(d_text.dtype.element_ty), mask=inside)
    tl.store(d_image + places, for_image.to(d_image.dtype.element_ty), mask=inside)


@triton.jit
def _d_relevance(
    text, image, present, text_share, d_text_share, d_share, d_relevance, task, d, batch, width, num_tasks, parts,
    text_stride, image_stride, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, HAS_D_SHARE: tl.constexpr,
):  # fmt: skip
    """A tile of d_relevance [K, D]: the sum over rows."""
    columns = d + tl.arange(0, BLOCK_D)
    total = tl.zeros([BLOCK_D], tl.float32)
    for b in range(0, batch, BLOCK_B):
        rows = b + tl.arange(0, BLOCK_B)
        _, energy = _d_energy(
            present, text_share, d_text_share, d_share, task, rows, batch, num_tasks, parts, HAS_D_SHARE
        )
        t, i = tokens(text, image, text_stride, image_stride, rows, columns, batch)
        total += tl.sum(energy[:, None] * (t - i), axis=0)
    tl.store(d_relevance + task * width + columns, total.to(d_relevance.dtype.element_ty))


@triton.jit(do_not_specialize=["batch", "num_tasks", "num_labels", "label_tiles", "parts"])
def _backward_sums_kernel(
    text,
    image,
    present,
    relevance,
    first_label,
    text_share,
    saved,
    d_logits,
    d_text_share,  # [B, K], read with HAS_D_SHARE
    d_first,
    d_fused,
    d_share,
    batch,
    width,
    hidden,
    num_tasks,
    num_labels,
    label_tiles,
    parts,  # of d_share
    text_stride,
    image_stride,
    dropout,
    d_text,  # [B, D]
    d_image,  # [B, D]
    d_relevance,  # [K, D]
    d_w1,  # [K, H, D]
    d_b1,  # [K, H]
    d_w2,  # [C, H]
    d_b2,  # [C]
    d_evidence,  # float32 [B, K]
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_D_SHARE: tl.constexpr,
    TF32: tl.constexpr,
):
    program = tl.program_id(0)
    width_tiles, hidden_tiles = width // BLOCK_D, hidden // BLOCK_H
    first_layer = num_tasks * hidden_tiles * width_tiles
    second_layer = first_layer + num_tasks * label_tiles * hidden_tiles
    attention = second_layer + num_tasks * width_tiles
    if program < first_layer:
        tile, d = program // width_tiles, program % width_tiles * BLOCK_D
        _d_first_layer(
            text, image, text_share, d_first, d_w1, d_b1, tile // hidden_tiles, tile % hidden_tiles * BLOCK_H, d,
            batch, width, hidden, num_tasks, text_stride, image_stride, BLOCK_B, BLOCK_D, BLOCK_H, TF32,
        )  # fmt: skip
    elif program < second_layer:
        item, h = (program - first_layer) // hidden_tiles, (program - first_layer) % hidden_tiles * BLOCK_H
        task = item // label_tiles
        first, end = (
            tl.load(first_label + task).to(tl.int32) + item % label_tiles * BLOCK_C,
            tl.load(first_label + task + 1).to(tl.int32),
        )
        if first < end:
            _d_second_layer(
                saved, d_logits, d_w2, d_b2, task, first, end, h, batch, hidden, num_labels, dropout,
                BLOCK_B, BLOCK_H, BLOCK_C, TF32,
            )  # fmt: skip
    elif program < attention:
        task, d = (program - second_layer) // width_tiles, (program - second_layer) % width_tiles * BLOCK_D
        _d_relevance(
            text, image, present, text_share, d_text_share, d_share, d_relevance, task, d, batch, width, num_tasks,
            parts, text_stride, image_stride, BLOCK_B, BLOCK_D, HAS_D_SHARE,
        )  # fmt: skip
    else:
        tile = program - attention
        _d_tokens(
            present, relevance, text_share, d_text_share, d_fused, d_share, d_text, d_image,
            d_evidence, tile // width_tiles * BLOCK_B, tile % width_tiles * BLOCK_D, batch, width, num_tasks, parts,
            BLOCK_B, BLOCK_D, HAS_D_SHARE,
        )  # fmt: skip


def row_tiles(batch: int, max_labels: int, dtype: torch.dtype) -> Tiles:
    """Of the first launch."""
    if dtype == torch.float32:
        return Tiles(16, 64, 32, 32, 4, 3) if batch <= 64 else Tiles(64, 64, 32, 32, 8, 2)
    labels = 32 if max_labels <= 32 else 128
    return Tiles(16, 64 if batch <= 64 else 128, 64, labels, 4, 3)


def sum_tiles(batch: int, dtype: torch.dtype) -> Tiles:
    """Of the second launch."""
    if dtype == torch.float32:
        return Tiles(32, 64, 32, 32, 8, 2)
    return Tiles(32, 64, 64, 64, 4, 3) if batch <= 64 else Tiles(128, 64, 64, 64, 8, 2)


def backward(
    inputs: Inputs,
    share: Tensor,
    saved: Tensor,
    d_logits: Tensor,
    d_share: Tensor | None,
    max_labels: int,
    dropout: float,
) -> list[Tensor]:
    """Launch both kernels.

    Args:
        share, saved: from `forward`.
        d_logits, d_share: gradients of the logits and of λ, contiguous.
    Returns:
        gradients of text, image, relevance, w1, b1, w2, b2, each in its own dtype, and of the evidence, float32 [B, K].
    """
    text, image, present, relevance, w1, b1, w2, b2, first_label = inputs
    (batch, width, hidden, tasks, labels), dtype = inputs.sizes(), saved.dtype
    strides, tf32 = (text.stride(0), image.stride(0)), torch.get_float32_matmul_precision() != "highest"
    r, s = row_tiles(batch, max_labels, dtype), sum_tiles(batch, dtype)
    d_first, d_fused = torch.empty_like(saved), text.new_empty(tasks, batch, width, dtype=dtype)
    parts = text.new_empty(width // r.width, tasks, batch, dtype=torch.float32)
    wrap_triton(_backward_rows_kernel)[((batch + r.rows - 1) // r.rows, width // r.width, tasks)](
        text, image, w1, w2, first_label, saved, d_logits,
        batch, width, hidden, tasks, labels, *strides, dropout,
        d_first, d_fused, parts,
        r.rows, r.width, r.hidden, r.labels, max_labels <= r.labels, tf32, num_warps=r.warps, num_stages=r.stages,
    )  # fmt: skip
    parameters = (text, image, relevance, w1, b1, w2, b2)
    gradients = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in parameters]
    gradients.append(torch.empty_like(share))
    label_tiles, columns = (max_labels + s.labels - 1) // s.labels, width // s.width
    programs = tasks * (hidden // s.hidden) * (columns + label_tiles) + tasks * columns
    programs += ((batch + s.rows - 1) // s.rows) * columns
    wrap_triton(_backward_sums_kernel)[(programs,)](
        text, image, present, relevance, first_label, share, saved, d_logits, share if d_share is None else d_share,
        d_first, d_fused, parts,
        batch, width, hidden, tasks, labels, label_tiles, width // r.width, *strides, dropout,
        *gradients,
        s.rows, s.width, s.hidden, s.labels, d_share is not None, tf32, num_warps=s.warps, num_stages=s.stages,
    )  # fmt: skip
    return gradients
