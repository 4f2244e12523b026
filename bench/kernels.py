"""Times the fused kernels against eager and compiled PyTorch, in one run on one GPU.

    python -m bench.kernels --output runs/bench/kernels

Runs the kernels' tests first and stops if one fails. Every shape is computed by four rivals in turn from the same
weights: `fused`, `eager` (a loop over tasks, as in kernels.reference with λ task by task), `stacked` (all tasks in
batched matrix products) and `compiled` (the stacked form by torch.compile, max-autotune). Host time is the wall
clock of a call of which the caller waits for the result; graph time is one replay of a captured CUDA graph.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from bench.device import matrix_product, waited
from bench.harness import Report, in_turn, percentiles
from cma_clip.command import Failure, command
from cma_clip.tables import markdown
from kernels import modality_heads as fused
from kernels import reference

# B batch, K tasks, D width, H hidden units, C labels of all tasks together

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TASKS = (1, 2, 4, 8)
LABELS = (12, 121)
WIDTH = 512
DROPOUT = 0.1
ROUNDS = 5
MODES = ("forward", "forward + backward")
TESTS = ("tests/kernels/test_modality_heads.py",)


class Heads:
    """Inputs and weights of one shape, and the rivals as functions of them.

    Args:
        dropout: in training; forward alone is evaluation.
    """

    def __init__(self, batch: int, tasks: int, labels: int, dtype: torch.dtype, device: str, dropout: float) -> None:
        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (scale * torch.randn(shape, device=device)).to(dtype).requires_grad_()

        self.labels, self.dropout = (labels,) * tasks, dropout
        self.text, self.image = draw(batch, WIDTH), draw(batch, WIDTH)
        self.relevance = draw(tasks, WIDTH, scale=WIDTH**-0.5)
        self.w1, self.b1 = draw(tasks, WIDTH, WIDTH, scale=WIDTH**-0.5), draw(tasks, WIDTH)
        self.w2, self.b2 = draw(tasks * labels, WIDTH, scale=WIDTH**-0.5), draw(tasks * labels)
        self.present = torch.ones(batch, 2, dtype=torch.bool, device=device)
        self.first_label = torch.tensor([0, *accumulate(self.labels)], device=device)

    @property
    def leaves(self) -> list[Tensor]:
        return [self.text, self.image, self.relevance, self.w1, self.b1, self.w2, self.b2]

    def fused(self) -> tuple[Tensor, Tensor]:
        tensors = (self.text, self.image, self.present, self.relevance, self.w1, self.b1, self.w2, self.b2)
        return fused.modality_heads(*tensors, self.first_label, self.labels, self.dropout)

    def eager(self) -> tuple[Tensor, Tensor]:
        """Task by task, as one writes the paper down."""
        parts = zip(
            self.relevance, self.w1, self.b1, self.w2.split(self.labels), self.b2.split(self.labels), strict=True
        )
        logits, shares = [], []
        for relevance, w1, b1, w2, b2 in parts:
            blended, share = reference.modality_attention(self.text, self.image, relevance[None], self.present)
            logits.append(reference.mlp_head(blended[:, 0], w1, b1, w2, b2, self.dropout))
            shares.append(share)
        return torch.cat(logits, dim=1), torch.cat(shares, dim=1)

    def stacked(self) -> tuple[Tensor, Tensor]:
        """All tasks at once; possible only because all tasks have equally many labels here."""
        blended, share = reference.modality_attention(self.text, self.image, self.relevance, self.present)
        hidden = F.gelu(torch.baddbmm(self.b1[:, None], blended.transpose(0, 1), self.w1.transpose(1, 2)))
        hidden = F.dropout(hidden, self.dropout, training=self.dropout > 0)
        tasks = len(self.labels)
        w2, b2 = self.w2.view(tasks, -1, WIDTH), self.b2.view(tasks, 1, -1)
        return torch.baddbmm(b2, hidden, w2.transpose(1, 2)).transpose(0, 1).flatten(1), share

    def flops(self, backward: bool) -> int:
        """Of the matrix products; the backward pass has two for each of the forward's."""
        batch, tasks = len(self.text), len(self.labels)
        return 2 * batch * tasks * WIDTH * (WIDTH + self.labels[0]) * (3 if backward else 1)

    def bytes(self, backward: bool) -> int:
        """Fewest that device memory must see: inputs and weights read, outputs written, the same for gradients."""
        read = sum(tensor.numel() for tensor in self.leaves) * self.text.element_size()
        batch, tasks = len(self.text), len(self.labels)
        written = batch * (sum(self.labels) * self.text.element_size() + 4 * tasks)
        return (read + written) * (2 if backward else 1)


def rivals(heads: Heads) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    torch.compiler.reset()
    compiled = torch.compile(heads.stacked, mode="max-autotune-no-cudagraphs", dynamic=False)
    return {"fused": heads.fused, "eager": heads.eager, "stacked": heads.stacked, "compiled": compiled}


def step(heads: Heads, function: Callable[[], tuple[Tensor, Tensor]], backward: bool) -> Callable[[], Any]:
    """What is timed: the outputs, or the gradients of every input and weight."""
    if not backward:
        return torch.no_grad()(function)
    with torch.no_grad():
        gradients = [torch.randn_like(tensor) for tensor in function()]

    def forward_backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(), heads.leaves, gradients)

    return forward_backward


def host_time(work: Callable[[], Any], repeats: int = 20) -> list[float]:
    """Microseconds of single calls, each waited for."""
    return [1e6 * waited(work) for _ in range(repeats)]


def captured(work: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def graph_time(graph: torch.cuda.CUDAGraph, repeats: int = 4, replays: int = 50) -> list[float]:
    """Microseconds of a replay, each figure the mean of `replays` in a row."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(replays):
            graph.replay()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / replays)
    return times


def launches(work: Callable[[], Any]) -> int:
    """GPU kernels, copies and fills of one call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return sum(event.count for event in profile.key_averages() if event.device_type == torch.autograd.DeviceType.CUDA)


def measure(batch: int, tasks: int, labels: int, mode: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """All rivals at one shape, warmed up and then timed in turn."""
    backward = mode != "forward"
    heads = Heads(batch, tasks, labels, dtype, "cuda", DROPOUT if backward else 0.0)
    works = {name: step(heads, function, backward) for name, function in rivals(heads).items()}
    peaks = {}
    for name, work in works.items():
        for _ in range(3):
            work()
        torch.cuda.reset_peak_memory_stats()
        work()
        peaks[name] = torch.cuda.max_memory_allocated()
    host = in_turn({name: partial(host_time, work) for name, work in works.items()}, ROUNDS)
    graph = in_turn({name: partial(graph_time, captured(work)) for name, work in works.items()}, ROUNDS)
    rows = []
    for name, work in works.items():
        host_us, graph_us = (percentiles(list(chain(*times[name]))) for times in (host, graph))
        rows.append({
            "batch": batch, "tasks": tasks, "labels": labels, "mode": mode, "rival": name, "host_us": host_us,
            "graph_us": graph_us, "launches": launches(work), "peak_bytes": peaks[name],
            "tflops": heads.flops(backward) / graph_us["median"] / 1e6,
            "gigabytes_per_s": heads.bytes(backward) / graph_us["median"] / 1e3,
        })  # fmt: skip
    return rows


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """What this GPU reaches: a large copy, and a large matrix product on random values."""
    source, product = torch.randn(1 << 30, device="cuda"), matrix_product(dtype)
    copies, products = zip(*((waited(source.clone), product()) for _ in range(5)), strict=True)
    return {"gigabytes_per_s": 2 * source.nbytes / min(copies) / 1e9, "tflops": max(products) / 1e12}


class Goal(NamedTuple):
    """How many times as fast as `rival` the fused kernels should be, up to a batch size.

    `mode` and `tasks` narrow the shapes. Judged by the geometric mean over the shapes, or by the worst.
    """

    name: str
    rival: str
    clock: str
    limit: float
    most_rows: int = 4096
    mode: str | None = None
    tasks: int | None = None
    judge: Callable[[list[float]], float] = statistics.geometric_mean


GOALS = (
    Goal("forward, 1 task: times eager, host time", "eager", "host_us", 2, 256, "forward", 1),
    Goal("forward, 8 tasks: times eager, host time", "eager", "host_us", 12, 256, "forward", 8),
    Goal("forward + backward, 8 tasks: times eager, host time", "eager", "host_us", 8, 256, "forward + backward", 8),
    Goal("times compiled, graph replay, B to 512", "compiled", "graph_us", 1.3, 512),
    Goal("times compiled, graph replay, worst shape", "compiled", "graph_us", 0.9, judge=min),
)


def verdicts(rows: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Each goal with its figure, NaN where no shape was measured, and its limit."""
    times = {(r["batch"], r["tasks"], r["labels"], r["mode"], r["rival"]): r for r in rows}
    found = []
    for goal in GOALS:
        ratios = [
            row[goal.clock]["median"] / times[*shape, "fused"][goal.clock]["median"]
            for (*shape, rival), row in times.items()
            if rival == goal.rival
            and row["batch"] <= goal.most_rows
            and goal.mode in (None, row["mode"])
            and goal.tasks in (None, row["tasks"])
        ]
        found.append((goal.name, goal.judge(ratios) if ratios else float("nan"), goal.limit))
    return found


def table(result: dict[str, Any]) -> str:
    """The goals, then a line for each shape with the median of each rival."""
    rows = result["rows"]
    goals = [[name, f"{value:.2f}", limit] for name, value, limit in verdicts(rows)]
    names = list(dict.fromkeys(row["rival"] for row in rows))
    cells = {(r["mode"], r["tasks"], r["labels"], r["batch"], r["rival"]): r for r in rows}
    lines = []
    for shape in dict.fromkeys(key[:-1] for key in cells):
        row, ours = (cells[*shape, name] for name in names), cells[*shape, "fused"]
        text = (f"{r['host_us']['median']:.1f} / {r['graph_us']['median']:.1f} ({r['launches']})" for r in row)
        lines.append([*shape, *text, f"{ours['tflops']:.1f}, {ours['gigabytes_per_s']:.0f}"])
    head = ["mode", "K", "C", "B", *(f"{n} host / graph µs (launches)" for n in names), "fused TFLOP/s, GB/s"]
    most = "this GPU reaches {tflops:.0f} TFLOP/s and {gigabytes_per_s:.0f} GB/s\n".format(**result["ceilings"])
    return "\n".join([markdown(["goal", "measured", "asked"], goals), most, markdown(head, lines)])


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Graph time over the batch, one panel for a mode and number of tasks."""
    rows = result["rows"]
    labels, tasks = max(r["labels"] for r in rows), sorted({r["tasks"] for r in rows})
    figure.set_size_inches(4 * len(tasks), 7)
    panels = figure.subplots(len(MODES), len(tasks), squeeze=False, sharex=True)
    for panel_row, mode in zip(panels, MODES, strict=True):
        for panel, k in zip(panel_row, tasks, strict=True):
            shown = [r for r in rows if (r["labels"], r["tasks"], r["mode"]) == (labels, k, mode)]
            for name in dict.fromkeys(r["rival"] for r in shown):
                line = [(r["batch"], r["graph_us"]["median"]) for r in shown if r["rival"] == name]
                panel.loglog(*zip(*line, strict=True), marker=".", label=name)
            panel.set_title(f"{mode}, {k} tasks of {labels} labels", fontsize=9)
            panel.set(xlabel="batch", ylabel="µs, graph replay")
    panels[0][0].legend()


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time the fused kernels on one GPU")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/kernels)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS)
    parser.add_argument("--skip-tests", action="store_true", help="they have just passed on this GPU")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device: times of the kernels mean something only on a GPU")
    if not args.skip_tests and subprocess.run([sys.executable, "-m", "pytest", *TESTS], check=False).returncode:
        raise Failure("the kernels' tests fail, so nothing is timed")
    dtype = getattr(torch, args.dtype)
    shapes = [(b, k, c, mode) for mode in MODES for k in args.tasks for c in args.labels for b in args.batch]
    with Report("kernels", args.output, table, draw, dtype=args.dtype, ceilings=ceilings(dtype)) as report:
        for batch, tasks, labels, mode in tqdm(shapes):
            report.add(*measure(batch, tasks, labels, mode, dtype))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
