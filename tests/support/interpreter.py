"""Triton's interpreter, with bfloat16 as a GPU has it.

In triton 3.6 to 3.9 the interpreter cuts bfloat16 off instead of rounding it, and its dot multiplies the bits as
integers. It runs a kernel's programs one after the other on the CPU.
"""

from __future__ import annotations

import os
import sys

assert "triton" not in sys.modules, "triton must not be imported before tests/support/interpreter.py"
os.environ["TRITON_INTERPRET"] = "1"

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: E402

_cast, _dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot


def _cast_rounded(self: InterpreterBuilder, source: TensorHandle, target: tl.dtype) -> TensorHandle:
    types = source.dtype.scalar, target.scalar
    if types == (tl.float32, tl.bfloat16):
        bits = torch.from_numpy(np.ascontiguousarray(source.data)).bfloat16().view(torch.int16).numpy()
        return TensorHandle(bits.view(np.uint16), tl.bfloat16)
    if types == (tl.bfloat16, tl.float32):
        return TensorHandle((source.data.astype(np.uint32) << 16).view(np.float32), tl.float32)
    return _cast(self, source, target)


def _dot_of_floats(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: object) -> TensorHandle:
    return _dot(
        self, *(self.create_fp_ext(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)), *rest
    )


InterpreterBuilder.cast_impl = _cast_rounded
InterpreterBuilder.create_dot = _dot_of_floats
