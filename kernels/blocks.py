"""What the forward and the backward kernels share: how work is cut into tiles, and small device functions."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

# Every tile divides it.
WIDTH_STEP = 128
# A hidden unit that dropout removed is saved as this value: GELU and its derivative are exactly zero there, in
# every dtype, so the backward pass neither keeps a mask nor draws one again.
DROPPED = tl.constexpr(-10000.0)


class Inputs(NamedTuple):
    """What the kernels read: text and image [B, D] with adjacent columns, the rest contiguous."""

    text: Tensor  # [B, D]
    image: Tensor  # [B, D]
    present: Tensor  # bool [B, 2]
    relevance: Tensor  # [K, D]
    w1: Tensor  # [K, H, D]
    b1: Tensor  # [K, H]
    w2: Tensor  # [C, H]
    b2: Tensor  # [C]
    first_label: Tensor  # int64 [K + 1]

    def sizes(self) -> tuple[int, int, int, int, int]:
        """B, D, H, K, C."""
        return *self.text.shape, self.w1.shape[1], self.w1.shape[0], self.w2.shape[0]


class Tiles(NamedTuple):
    """A tile: rows, width, hidden units and labels; warps; stages of the load pipeline."""

    rows: int
    width: int
    hidden: int
    labels: int
    warps: int
    stages: int


@triton.jit
def dot(a, b, total, TF32: tl.constexpr):
    """total + a·b, summed in float32; float32 factors are rounded to TF32 only where asked."""
    return tl.dot(a, b, total, input_precision="tf32" if TF32 else "ieee")


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_slope(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def tokens(text, image, text_stride, image_stride, rows, columns, batch):
    """Both modalities' [rows, columns], float32; zero beyond the batch."""
    inside = (rows < batch)[:, None]
    t = tl.load(text + rows.to(tl.int64)[:, None] * text_stride + columns[None, :], mask=inside, other=0.0)
    i = tl.load(image + rows.to(tl.int64)[:, None] * image_stride + columns[None, :], mask=inside, other=0.0)
    return t.to(tl.float32), i.to(tl.float32)
