"""What `kernels: auto` computes the heads by on a GPU: the fused kernels, where they are right and faster there.

Before their first use they are held against the reference at the run's own sizes and dtypes, in values and, where
gradients are wanted, in gradients; then both are timed. The verdict holds for one GPU, versions, case and batch, and
kernels.json keeps it, where the first to write wins. Ranks that measure at the same time may still differ, which is
harmless: both ways agree within rounding, and no collective operation depends on which a rank takes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import triton
from pydantic import TypeAdapter
from torch import Tensor
from torch.utils.benchmark import Timer

from cma_clip.files import write_atomically
from kernels import agreement
from kernels.agreement import Case
from kernels.modality_heads import modality_heads

REPEATS = 20

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """On the fused kernels, which are taken where they are faster; `reason` is for people."""

    kernels: Literal["faster", "slower", "wrong", "failing", "unmeasured"]
    reason: str


Verdicts = dict[str, dict[int, Verdict]]  # circumstances and case -> batch -> verdict
VERDICTS = TypeAdapter(Verdicts)
DECIDED: defaultdict[tuple[torch.device, Case], dict[int, Verdict]] = defaultdict(dict)  # in this process
UNMEASURED = Verdict("unmeasured", "no call came before torch traced or captured this one")


def takes_kernels(text_BD: Tensor, relevance_KD: Tensor | None, w1_KHD: Tensor, labels: Sequence[int]) -> bool:
    """Whether the fused kernels shall compute these heads.

    The first call at a size measures, but not while torch traces or captures a CUDA graph: then what is remembered
    counts (in a traced graph that of every batch size), else the reference is taken.
    """
    case = Case.of(text_BD, relevance_KD, w1_KHD, labels)
    if torch.compiler.is_compiling():
        return _when_traced(text_BD.device, *case)
    return decide(text_BD.device, case, 1 << (max(1, len(text_BD)) - 1).bit_length()).kernels == "faster"


@torch.compiler.assume_constant_result
def _when_traced(device: torch.device, *case: Any) -> bool:
    return decide(device, Case(*case), None).kernels == "faster"


def decide(device: torch.device, case: Case, batch: int | None) -> Verdict:
    """The verdict, as decided before, or with one line that says it.

    Args:
        batch: the most products, a power of two; None where any number may come, of which nothing is measured.
    """
    decided = DECIDED[device, case]
    if batch in decided:
        return decided[batch]
    key, measurable = "", batch is not None and not is_capturing(device)
    try:
        key = f"{circumstances(device)}; {case}"
        verdict = _recall(read().get(key, {}) | decided, batch)
        if batch and measurable and verdict is UNMEASURED:
            verdict = keep(key, batch, _measure(device, case, batch))
    except Exception as error:  # whatever a compiler or a driver says of a GPU that nobody here has seen
        verdict = Verdict("failing", f"{type(error).__name__}: {textwrap.shorten(str(error), 300)}")
        if batch and isinstance(error, torch.AcceleratorError):
            # An illegal access ends every later call of this process; the next one must not come here again.
            keep(key, batch, verdict)
    if batch and measurable:
        decided[batch] = verdict
    _say(verdict, f"{case}, batch {batch or 'any'}")
    return verdict


def _recall(known: dict[int, Verdict], batch: int | None) -> Verdict:
    """That on the batch; on any, one that is not `faster` if there is one."""
    if batch is not None:
        return known.get(batch, UNMEASURED)
    return min(known.values(), key=lambda verdict: verdict.kernels == "faster", default=UNMEASURED)


def _measure(device: torch.device, case: Case, batch: int) -> Verdict:
    for size in sorted({batch // 2 + 1, batch}):
        if fault := agreement.fault(modality_heads, case, size, device):
            return Verdict("wrong", fault)
    inputs = agreement.sample(case, batch, device)
    ways = (partial(agreement.outputs, heads, case, inputs) for heads in (modality_heads, agreement.plain))
    ours, theirs = map(median_milliseconds, ways)
    reason = f"{ours:.3f} ms against {theirs:.3f} ms of the reference"
    return Verdict("faster" if ours < theirs else "slower", reason)


def is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def circumstances(device: torch.device) -> str:
    """All that a verdict depends on beside case and batch: GPU, versions, sources, and whether TF32 is allowed."""
    gpu = torch.cuda.get_device_properties(device)
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    versions = f"torch {torch.__version__}, triton {triton.__version__}, cuda {torch.version.cuda}"
    kernels = f"kernels {hashlib.sha256(sources).hexdigest()[:8]}, float32 {torch.get_float32_matmul_precision()}"
    return f"{gpu.name} {gpu.major}.{gpu.minor}, {versions}, {kernels}"


def median_milliseconds(work: Callable[[], Any]) -> float:
    """Of calls that are waited for: at these sizes the host costs as much as the GPU."""
    timer = Timer("work()", globals={"work": work})
    return 1e3 * statistics.median(timer.timeit(1).median for _ in range(REPEATS))


def _say(verdict: Verdict, case: str) -> None:
    """One line on what is taken and why; where all is as it should be, of the first rank alone."""
    expected = verdict.kernels in ("faster", "slower")
    if not expected or os.environ.get("RANK", "0") == "0":
        refused = f"reference, the fused kernels are {verdict.kernels}"
        way = "fused kernels" if verdict.kernels == "faster" else refused
        level = logging.INFO if expected else logging.WARNING
        logger.log(level, "kernels: auto takes the %s: %s (%s)", way, verdict.reason, case)


def file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cma-clip/kernels.json")


def read() -> Verdicts:
    """What this and other processes have measured; nothing if the file is missing, damaged or not ours."""
    try:
        return VERDICTS.validate_json(file().read_bytes())
    except (OSError, ValueError):
        return {}


def keep(key: str, batch: int, verdict: Verdict) -> Verdict:
    """Write it down; where another process was first, its verdict is kept and returned."""
    verdicts = read()
    kept = verdicts.setdefault(key, {}).setdefault(batch, verdict)
    with suppress(OSError):  # it only costs the next process a measurement
        file().parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file(), VERDICTS.dump_json(verdicts, indent=1))
    return kept
