"""What each compiled kernel needs of a GPU, found without one: registers, stack, shared memory, matrix unit.

    python -m bench.kernel_resources

Every dtype and tile is compiled for every generation. A stack means spilled registers; exit code 1 if there is
any, or more shared memory than the smallest GPU of that generation gives a block.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import patch

import torch
import triton
from torch import Tensor
from tqdm import tqdm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cma_clip.command import command
from cma_clip.machine import usable_cores
from cma_clip.tables import markdown
from kernels.backward import _backward_rows_kernel, _backward_sums_kernel, backward
from kernels.blocks import Inputs
from kernels.forward import _forward_kernel, forward

# Bytes of shared memory that a block may have (CUDA programming guide, table of compute capabilities).
SHARED_MEMORY = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
# float32 once by ordinary arithmetic, once by the matrix units in TF32.
PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "highest", "float16": "highest"}
# One batch and one number of labels for each entry of the tables of tiles.
BATCHES = (64, 128, 4096)
LABELS = (32, 128, 1024)
KERNELS = {k.__name__: k for k in (_forward_kernel, _backward_rows_kernel, _backward_sums_kernel)}
UNITS = ("tcgen05.mma", "wgmma.mma", "mma.sync")
POINTERS = {
    torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16",
    torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1",
}  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """Of one kernel, compiled for one dtype, tile and GPU. Stack and shared memory in bytes."""

    kernel: str
    dtype: str
    tiles: str
    arch: int
    registers: int
    stack: int
    shared: int
    unit: str

    @property
    def fits(self) -> bool:
        return self.stack == 0 and self.shared <= SHARED_MEMORY[self.arch]


@dataclass(frozen=True)
class Variant:
    """One kernel's arguments as its launcher passes them, each reduced to what the compiler sees of it."""

    kernel: str
    dtype: str
    arguments: tuple[Any, ...]
    options: tuple[tuple[str, int], ...]


def variants() -> list[Variant]:
    """Every kernel in every dtype and tile that the launchers use, once."""
    found: dict[Variant, None] = {}
    for dtype in PRECISIONS:
        for batch in BATCHES:
            for labels in LABELS:
                found.update(dict.fromkeys(_launches(dtype, batch, labels)))
    return list(found)


def _launches(dtype: str, batch: int, labels: int, width: int = 512, tasks: int = 8) -> list[Variant]:
    """What the launchers would launch for training at this shape."""
    launched: list[Variant] = []

    def record(kernel: Any) -> dict[Any, Callable[..., None]]:
        def launch(*arguments: Any, **options: int) -> None:
            reduced = (
                argument if parameter.is_constexpr else _as_compiled(argument, parameter.do_not_specialize)
                for parameter, argument in zip(kernel.params, arguments, strict=True)
            )
            launched.append(Variant(kernel.__name__, dtype, tuple(reduced), tuple(options.items())))

        return defaultdict(lambda: launch)  # kernel[grid](...), whatever the grid

    floating = getattr(torch, dtype.replace("tf32", "float32"))

    def empty(*shape: int, dtype: torch.dtype = floating) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = Inputs(
        text=empty(batch, width), image=empty(batch, width), present=empty(batch, 2, dtype=torch.bool),
        relevance=empty(tasks, width), w1=empty(tasks, width, width), b1=empty(tasks, width),
        w2=empty(tasks * labels, width), b2=empty(tasks * labels), first_label=empty(tasks + 1, dtype=torch.int64),
    )  # fmt: skip
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(PRECISIONS[dtype])
    try:
        with patch("kernels.forward.wrap_triton", record), patch("kernels.backward.wrap_triton", record):
            seed = empty(1, dtype=torch.int64)
            logits, share, saved = forward(inputs, None, seed, labels, 0.1, inputs.text.dtype, True)
            backward(inputs, share, saved, logits, share, labels, 0.1)
    finally:
        torch.set_float32_matmul_precision(precision)
    return launched


def _as_compiled(argument: Tensor | int | float, unspecialised: bool) -> tuple[str, bool]:
    """A kernel argument's type, and whether the compiler may count on a multiple of 16."""
    if isinstance(argument, Tensor):
        return POINTERS[argument.dtype], True
    if isinstance(argument, float):
        return "fp32", False
    return "i32", not unspecialised and argument % 16 == 0


def compile_for(variant: Variant, arch: int) -> Needs:
    """Compile a variant for compute capability `arch` (90 is 9.0) and read what it needs from the binary."""
    kernel = KERNELS[variant.kernel]
    signature, constants, attributes = {}, {}, {}
    for place, (parameter, argument) in enumerate(zip(kernel.params, variant.arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[(place,)] = "constexpr", argument
        else:
            signature[parameter.name], divisible = argument
            attributes[(place,)] = [["tt.divisibility", 16]] if divisible else []
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(variant.options))
    usage = _resource_usage(compiled.asm["cubin"])
    unit = next((unit for unit in UNITS if unit in compiled.asm["ptx"]), "none")
    constexprs = [str(value) for (place,), value in constants.items()]
    tiles = " ".join([*constexprs, *(f"{name}={value}" for name, value in variant.options)])
    shared = compiled.metadata.shared
    return Needs(variant.kernel, variant.dtype, tiles, arch, usage["REG"], usage["STACK"], shared, unit)


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """The fields of cuobjdump's line, such as REG:128 STACK:0."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK):(\d+)", output)}


def table(needs: Sequence[Needs]) -> str:
    """A line for a kernel and dtype: the most registers and shared memory that any of its tiles needs."""
    groups: dict[tuple[str, str], dict[int, list[Needs]]] = {}
    for need in needs:
        groups.setdefault((need.kernel.strip("_").removesuffix("_kernel"), need.dtype), {}).setdefault(
            need.arch, []
        ).append(need)
    rows = []
    for (kernel, dtype), of_arch in groups.items():
        cells = []
        for some in of_arch.values():
            stack = max(n.stack for n in some)
            most = f"{max(n.registers for n in some)} / {max(n.shared for n in some) >> 10} KiB"
            cells.append(most + (f" **stack {stack}**" if stack else ""))
        rows.append([kernel, dtype, len(of_arch[next(iter(of_arch))]), *cells])
    return markdown(["kernel", "dtype", "tiles", *(f"sm_{arch}" for arch in SHARED_MEMORY)], rows)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print a list of objects instead of the table")
    args = parser.parse_args(arguments)
    if triton.knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set: the interpreter compiles nothing; unset it")
    jobs = [(variant, arch) for arch in SHARED_MEMORY for variant in variants()]
    with ProcessPoolExecutor(usable_cores()) as pool:
        needs = list(tqdm(pool.map(compile_for, *zip(*jobs, strict=True)), total=len(jobs), disable=args.json))
    print(json.dumps([asdict(need) for need in needs]) if args.json else table(needs), end="")
    return 0 if all(need.fits for need in needs) else 1


if __name__ == "__main__":
    sys.exit(main())
