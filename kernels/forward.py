"""The forward kernel and its launcher."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton

from kernels.blocks import DROPPED, Inputs, Tiles, dot, gelu, tokens

# The hidden units of a task are split over programs as long as all of them together have at most so many warps: eight
# on each of 128 multiprocessors (measured on an H200).
MOST_WARPS = 1024
# Row tiles times tasks times label tiles, where the hidden units are split.
MOST_COUNTERS = 16 * 16 * 16


@triton.jit
def _kept(seed, dropout, task, rows, unit, batch, hidden, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """Whether dropout keeps [rows, units]: four units a Philox counter, the counter from their place alone."""
    quads = tl.arange(0, BLOCK_H // 4)
    counters = ((task * batch + rows) * (hidden // 4) + unit // 4)[:, None] + quads[None, :]
    a, b, c, d = tl.rand4x(tl.load(seed), counters)
    chances = tl.join(tl.join(a, c), tl.join(b, d)).reshape(BLOCK_B, BLOCK_H)
    return chances >= dropout


@triton.jit(do_not_specialize=["batch", "num_tasks", "num_labels", "has_evidence", "save"])
def _forward_kernel(
    text,  # [B, D], rows text_stride apart
    image,  # [B, D], rows image_stride apart
    present,  # bool [B, 2]
    relevance,  # [K, D]
    w1,  # [K, H, D]
    b1,  # [K, H]
    w2,  # [C, H]
    b2,  # [C]
    first_label,  # int64 [K + 1]: where each task's labels begin
    evidence,  # float32 [B, K], read if has_evidence
    seed,  # int64 [1], read if dropout > 0
    batch,
    width,
    hidden,
    num_tasks,
    num_labels,
    text_stride,
    image_stride,
    dropout,
    has_evidence,
    save,
    logits,  # [B, C]; its dtype is that of the matrix products
    text_share,  # float32 [B, K]
    saved,  # [K, B, H], written if save
    partial,  # float32 [splits, B, C], scratch of several splits
    arrivals,  # int32, zero before and after, one a (rows, item), used by several splits
    BLOCK_B: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TF32: tl.constexpr,
):
    DTYPE: tl.constexpr = logits.dtype.element_ty
    row_tile, split, item = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits = tl.num_programs(1)
    label_tiles = tl.num_programs(2) // num_tasks
    task, label_tile = item // label_tiles, item % label_tiles
    labels = tl.load(first_label + task).to(tl.int32) + label_tile * BLOCK_C + tl.arange(0, BLOCK_C)
    end = tl.load(first_label + task + 1).to(tl.int32)
    if tl.min(labels) >= end:
        return
    rows = row_tile * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = tl.arange(0, BLOCK_D)
    inside = rows < batch

    given = tl.load(evidence + rows * num_tasks + task, mask=inside & (has_evidence != 0), other=0.0)
    energy = given.to(tl.float32)
    for d in range(0, width, BLOCK_D):
        t, i = tokens(text, image, text_stride, image_stride, rows, d + columns, batch)
        w = tl.load(relevance + task * width + d + columns).to(tl.float32)
        energy += tl.sum((t - i) * w[None, :], axis=1)
    share = tl.sigmoid(energy)
    share = tl.where(tl.load(present + 2 * rows + 1, mask=inside, other=1) != 0, share, 1.0)
    share = tl.where(tl.load(present + 2 * rows, mask=inside, other=1) != 0, share, 0.0)
    if (split == 0) & (label_tile == 0):
        tl.store(text_share + rows * num_tasks + task, share, mask=inside)

    total = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
    steps = hidden // BLOCK_H // splits
    for step in range(split * steps, (split + 1) * steps):
        h = step * BLOCK_H
        units = h + tl.arange(0, BLOCK_H)
        first = tl.zeros([BLOCK_B, BLOCK_H], tl.float32)
        for d in range(0, width, BLOCK_D):
            t, i = tokens(text, image, text_stride, image_stride, rows, d + columns, batch)
            fused = share[:, None] * t + (1.0 - share[:, None]) * i
            w = tl.load(w1 + (task * hidden + units)[None, :] * width + (d + columns)[:, None])
            first = dot(fused.to(DTYPE), w.to(DTYPE), first, TF32)
        first += tl.load(b1 + task * hidden + units).to(tl.float32)[None, :]
        if dropout > 0:
            first = tl.where(_kept(seed, dropout, task, rows, h, batch, hidden, BLOCK_B, BLOCK_H), first, DROPPED)
        if (save != 0) & (label_tile == 0):
            places = (task * batch + rows).to(tl.int64)[:, None] * hidden + units[None, :]
            tl.store(saved + places, first.to(DTYPE), mask=inside[:, None])
        active = gelu(first) / (1.0 - dropout)
        w = tl.load(w2 + labels[None, :] * hidden + units[:, None], mask=(labels < end)[None, :], other=0.0)
        total = dot(active.to(DTYPE), w.to(DTYPE), total, TF32)

    places = rows.to(tl.int64)[:, None] * num_labels + labels[None, :]
    valid = inside[:, None] & (labels < end)[None, :]
    bias = tl.load(b2 + labels, mask=labels < end, other=0.0).to(tl.float32)[None, :]
    if splits > 1:
        size = tl.cast(batch, tl.int64) * num_labels
        tl.store(partial + split * size + places, total, mask=valid)
        # All threads have stored before one of them says so; whoever comes last then reads past the L1 cache.
        tl.debug_barrier()
        arrival = arrivals + item * tl.num_programs(0) + row_tile
        if tl.atomic_add(arrival, 1) == splits - 1:
            total = tl.zeros([BLOCK_B, BLOCK_C], tl.float32)
            for s in range(splits):
                total += tl.load(partial + s * size + places, mask=valid, other=0.0, cache_modifier=".cg")
            tl.store(logits + places, (total + bias).to(DTYPE), mask=valid)
            tl.store(arrival, 0)
    else:
        tl.store(logits + places, (total + bias).to(DTYPE), mask=valid)


def tiles(batch: int, tasks: int, max_labels: int, dtype: torch.dtype) -> Tiles:
    """Small tiles spread few rows over the GPU, large ones read the weights less often.

    `batch` may be symbolic between 1 and 64, and is compared with no number in between.
    """
    if dtype == torch.float32:
        return Tiles(16, 32, 32, 32 if max_labels <= 32 else 64, 4, 3) if batch <= 64 else Tiles(64, 32, 32, 128, 8, 2)
    few = max_labels <= 32
    labels = 32 if few else 128
    if batch <= 64 or batch * tasks <= 512:
        return Tiles(16, 128, 64, labels, 4 if few else 8, 3)
    if batch * tasks <= (1024 if few else 2048):
        return Tiles(16, 128, 128, labels, 4, 3)
    return Tiles(64, 64, 128, labels, 8, 3)


def splits_of(batch: int, tasks: int, label_tiles: int, hidden: int, tile: Tiles) -> int:
    """Over how many programs the hidden units of a task are split, a power of two."""
    rows = 32 if batch <= 64 else batch  # the same for every small batch, which may be symbolic
    programs = (rows + tile.rows - 1) // tile.rows * tasks * label_tiles
    splits, steps = 1, hidden // tile.hidden
    while steps % (2 * splits) == 0 and 2 * splits * programs * tile.warps <= MOST_WARPS:
        splits *= 2
    return splits


def forward(
    inputs: Inputs,
    evidence: Tensor | None,
    seed: Tensor | None,
    max_labels: int,
    dropout: float,
    dtype: torch.dtype,
    save: bool,
    counters: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel.

    Args:
        evidence: float32 [B, K], contiguous, or None.
        seed: int64 [1], None without dropout.
        max_labels: labels of the largest task.
        dtype: of the matrix products and the logits.
        save: keep what the backward pass needs.
        counters: int32 [MOST_COUNTERS], all zero, left zero; None makes them.
    Returns:
        logits [B, C] in `dtype`, λ float32 [B, K], and the first layer's output in `dtype` [K, B, H], empty
        without `save`.
    """
    text, (batch, width, hidden, tasks, labels) = inputs.text, inputs.sizes()
    t = tiles(batch, tasks, max_labels, dtype)
    label_tiles = (max_labels + t.labels - 1) // t.labels
    splits = splits_of(batch, tasks, label_tiles, hidden, t)
    logits = text.new_empty(batch, labels, dtype=dtype)
    share = text.new_empty(batch, tasks, dtype=torch.float32)
    saved = text.new_empty((tasks, batch, hidden) if save else (0,), dtype=dtype)
    partial = text.new_empty((splits, batch, labels) if splits > 1 else (0,), dtype=torch.float32)
    grid = ((batch + t.rows - 1) // t.rows, splits, tasks * label_tiles)
    if counters is None:
        counters = torch.zeros(grid[0] * grid[2] if splits > 1 else 0, dtype=torch.int32, device=text.device)
    wrap_triton(_forward_kernel)[grid](
        *inputs, inputs.relevance if evidence is None else evidence, inputs.first_label if seed is None else seed,
        batch, width, hidden, tasks, labels, text.stride(0), inputs.image.stride(0), dropout,
        int(evidence is not None), int(save),
        logits, share, saved, partial, counters,
        t.rows, t.width, t.hidden, t.labels, torch.get_float32_matmul_precision() != "highest",
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return logits, share, saved
