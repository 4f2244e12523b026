"""What `kernels: auto` computes the heads by on a GPU: the fused kernels, where they are right and faster there.

Before their first use they are held against the reference at the run's own sizes and dtypes, in values and, where
gradients are wanted, in gradients; then both are timed. The verdict holds for one GPU, versions, sizes and mode, and
kernels.json keeps it (kernels.verdicts), where the first to write wins. Ranks that measure at the same time may still
differ, which is harmless: both ways agree within rounding, and no collective operation depends on which a rank takes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from kernels import agreement
from kernels.agreement import Case, Heads
from kernels.modality_heads import modality_heads
from kernels.verdicts import Verdict, Verdicts

WARM_UP, REPEATS = 3, 20

logger = logging.getLogger(__name__)

UNMEASURED = Verdict(kernels="unmeasured", reason="no call came before torch traced or captured this one")


def gpu_and_versions(device: torch.device) -> str:
    """All that a verdict depends on beside the case; other sources of the kernels are measured anew."""
    gpu = torch.cuda.get_device_properties(device)
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    versions = f"torch {torch.__version__}, triton {triton.__version__}, cuda {torch.version.cuda}"
    return f"{gpu.name} {gpu.major}.{gpu.minor}, {versions}, kernels {hashlib.sha256(sources).hexdigest()[:8]}"


def median_milliseconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of calls that are waited for: at these sizes the host costs as much as the GPU."""
    times = []
    for _ in range(WARM_UP + REPEATS):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[WARM_UP:])


def takes_kernels(text_BD: Tensor, relevance_KD: Tensor | None, w1_KHD: Tensor, labels: Sequence[int]) -> bool:
    """Whether the fused kernels shall compute these heads.

    The first call at a size measures, but not while torch traces or captures a CUDA graph: then that is taken which
    is remembered (in a traced graph of every batch size), else the reference.
    """
    if torch.compiler.is_compiling():
        return _when_traced(text_BD.device, *Case.of(text_BD, relevance_KD, w1_KHD, labels, batch=0))
    batch = max(1, len(text_BD))
    return AUTO.choose(text_BD.device, Case.of(text_BD, relevance_KD, w1_KHD, labels, batch))


@torch.compiler.assume_constant_result
def _when_traced(device: torch.device, *case: Any) -> bool:
    return AUTO.decide(device, Case(*case), measurable=False).kernels == "faster"


class Choice:
    """Decides, and remembers in this process; the arguments are what a test puts others in the place of."""

    def __init__(
        self,
        fused: Heads = modality_heads,
        gpu: Callable[[torch.device], str] = gpu_and_versions,
        milliseconds: Callable[[Callable[[], Any], torch.device], float] = median_milliseconds,
    ) -> None:
        self.fused, self.gpu, self.milliseconds = fused, gpu, milliseconds
        self.verdicts: dict[tuple[torch.device, Case], Verdict] = {}
        self.remembered = Verdicts()
        self.lock = threading.Lock()

    def choose(self, device: torch.device, case: Case) -> bool:
        verdict = self.verdicts.get((device, case))
        if verdict is None:
            measurable = not is_capturing(device)
            with self.lock:
                verdict = self.verdicts.get((device, case)) or self.decide(device, case, measurable)
                if measurable:
                    self.verdicts[device, case] = verdict
        return verdict.kernels == "faster"

    def decide(self, device: torch.device, case: Case, measurable: bool) -> Verdict:
        """Recall or measure; one line says what is taken and why."""
        key = ""
        try:
            key = f"{self.gpu(device)}; {case}"
            # No power of two ends in 0.
            found = self.remembered.recall(key.removesuffix("0"), prefix=case.batch == 0)
            if found is None and measurable:
                found = self.remembered.keep(key, self._measure(device, case))
            verdict = found or UNMEASURED
        except Exception as error:  # whatever a compiler or a driver says of a GPU that nobody here has seen
            reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 300)}"
            verdict = Verdict(kernels="failing", reason=reason)
            if isinstance(error, torch.AcceleratorError):  # the process will not outlive it; the next need not try
                self.remembered.keep(key, verdict)
        expected = verdict.kernels in ("faster", "slower")
        if not expected or os.environ.get("RANK", "0") == "0":
            way = (
                "fused kernels"
                if verdict.kernels == "faster"
                else f"reference, the fused kernels are {verdict.kernels}"
            )
            line = f"kernels: auto takes the {way}: {verdict.reason} ({case})"
            logger.log(logging.INFO if expected else logging.WARNING, line)
        return verdict

    def _measure(self, device: torch.device, case: Case) -> Verdict:
        for batch in sorted({case.batch // 2 + 1, case.batch}):
            if fault := agreement.fault(self.fused, case, batch, device):
                return Verdict(kernels="wrong", reason=fault)
        inputs = agreement.sample(case, case.batch, device)
        ours, theirs = (
            self.milliseconds(partial(agreement.outputs, heads, case, inputs), device)
            for heads in (self.fused, agreement.plain)
        )
        reason = f"{ours:.3f} ms against {theirs:.3f} ms of the reference"
        return Verdict(kernels="faster" if ours < theirs else "slower", reason=reason)


def is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


AUTO = Choice()
