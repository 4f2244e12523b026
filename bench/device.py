"""The GPU, or without one the processor: waiting for it, what it reaches, and how much memory something takes."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from bench.harness import seconds_of


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def waited(work: Callable[[], object]) -> float:
    """Seconds of a call whose result is waited for."""

    def complete() -> None:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return seconds_of(complete)


def matrix_product(dtype: torch.dtype) -> Callable[[], float]:
    """A product of large random matrices, which gives its operations a second."""
    side = 16384 if torch.cuda.is_available() else 2048
    a, b = (torch.randn(side, side, device=device()).to(dtype) for _ in range(2))
    return lambda: 2 * side**3 / waited(lambda: a @ b)


class Memory:
    """Counts from where it was made.

    On a GPU all that is taken of it counts, whose allocators keep what they once had; without one, this process's
    resident memory.
    """

    def __init__(self) -> None:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # else what comes next takes its place and seems to need nothing
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (man 5 proc); psutil cannot
        self.before = _in_use()

    def peak_bytes(self) -> int:
        """Most since then."""
        return _in_use() - self.before


def _in_use() -> int:
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10
