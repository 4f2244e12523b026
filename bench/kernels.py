"""Times the fused kernels against eager and compiled PyTorch, in one run on one GPU.

    python -m bench.kernels --output benchmark

Runs the kernels' tests first and stops if one fails. Writes measurements.json, table.md and plot.png. Every
shape is computed by four rivals from the same weights: `fused`, `eager` (a loop over tasks, as in
kernels.reference with λ task by task), `stacked` (all tasks in batched matrix products) and `compiled` (the
stacked form by torch.compile, max-autotune). Host time is the wall clock of a call of which the caller waits for
the result; graph time is one replay of a captured CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from kernels import modality_heads as fused
from kernels import reference

# B batch, K tasks, D width, H hidden units, C labels of all tasks together

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TASKS = (1, 2, 4, 8)
LABELS = (12, 121)
WIDTH = 512
DROPOUT = 0.1
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


def host_time(work: Callable[[], Any], repeats: int = 100) -> list[float]:
    """Microseconds of single calls, each waited for."""
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - start))
    return times


def graph_time(work: Callable[[], Any], repeats: int = 20, replays: int = 50) -> list[float]:
    """Microseconds of a replay, each figure the mean of `replays` in a row."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
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


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and the 20th and 80th percentile."""
    if len(times) < 2:
        return dict.fromkeys(("p20", "median", "p80"), times[0])
    cuts = statistics.quantiles(times, n=10, method="inclusive")
    return {"p20": cuts[1], "median": statistics.median(times), "p80": cuts[7]}


def measure(batch: int, tasks: int, labels: int, mode: str, dtype: torch.dtype) -> list[dict[str, Any]]:
    """All rivals at one shape, warmed up, checked against each other and then timed."""
    backward = mode != "forward"
    heads = Heads(batch, tasks, labels, dtype, "cuda", DROPOUT if backward else 0.0)
    rows = []
    for name, function in rivals(heads).items():
        work = step(heads, function, backward)
        for _ in range(3):
            work()
        torch.cuda.reset_peak_memory_stats()
        host, graph = summary(host_time(work)), summary(graph_time(work))
        rows.append({
            "batch": batch, "tasks": tasks, "labels": labels, "mode": mode, "rival": name, "host_us": host,
            "graph_us": graph, "launches": launches(work), "peak_bytes": torch.cuda.max_memory_allocated(),
            "tflops": heads.flops(backward) / graph["median"] / 1e6,
            "gigabytes_per_s": heads.bytes(backward) / graph["median"] / 1e3,
        })  # fmt: skip
    return rows


def ceilings(dtype: torch.dtype) -> dict[str, float]:
    """What this GPU reaches: a large copy, and a large matrix product on random values."""
    source = torch.randn(1 << 28, device="cuda")
    a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    copy = statistics.median(graph_time(source.clone, repeats=5, replays=5))
    product = statistics.median(graph_time(lambda: a @ b, repeats=5, replays=5))
    return {"gigabytes_per_s": 2 * source.nbytes / copy / 1e3, "tflops": 2 * 8192**3 / product / 1e6}


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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the goals, then a line for each shape with the median of each rival."""
    lines = ["| goal | measured | asked |", "|---|---|---|"]
    lines += [f"| {name} | {value:.2f} | {limit} |" for name, value, limit in verdicts(rows)]
    names = list(dict.fromkeys(row["rival"] for row in rows))
    lines += ["", "| mode | K | C | B | " + " | ".join(f"{n} host / graph µs (launches)" for n in names)]
    lines[-1] += " | fused TFLOP/s, GB/s |"
    lines.append("|" + "---|" * (5 + len(names)))
    shapes = dict.fromkeys((r["mode"], r["tasks"], r["labels"], r["batch"]) for r in rows)
    cells = {(r["mode"], r["tasks"], r["labels"], r["batch"], r["rival"]): r for r in rows}
    for shape in shapes:
        row = (cells[*shape, name] for name in names)
        text = (f"{r['host_us']['median']:.1f} / {r['graph_us']['median']:.1f} ({r['launches']})" for r in row)
        ours = cells[*shape, "fused"]
        reached = f"{ours['tflops']:.1f}, {ours['gigabytes_per_s']:.0f}"
        lines.append(f"| {' | '.join(map(str, shape))} | {' | '.join(text)} | {reached} |")
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Graph time over the batch, one panel for a mode and number of tasks."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels, tasks = max(r["labels"] for r in rows), sorted({r["tasks"] for r in rows})
    figure, panels = plt.subplots(len(MODES), len(tasks), figsize=(4 * len(tasks), 7), squeeze=False, sharex=True)
    for panel_row, mode in zip(panels, MODES, strict=True):
        for panel, k in zip(panel_row, tasks, strict=True):
            shown = [r for r in rows if (r["labels"], r["tasks"], r["mode"]) == (labels, k, mode)]
            for name in dict.fromkeys(r["rival"] for r in shown):
                line = [(r["batch"], r["graph_us"]["median"]) for r in shown if r["rival"] == name]
                panel.loglog(*zip(*line, strict=True), marker=".", label=name)
            panel.set_title(f"{mode}, {k} tasks of {labels} labels", fontsize=9)
            panel.set_xlabel("batch")
            panel.set_ylabel("µs, graph replay")
    panels[0][0].legend()
    figure.tight_layout()
    figure.savefig(path)


def machine() -> dict[str, str]:
    import triton

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    return {"gpu": torch.cuda.get_device_name(), "commit": commit.stdout.strip(), **versions}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="directory for the results")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS)
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: no CUDA device: times of the kernels mean something only on a GPU", file=sys.stderr)
        return 2
    if subprocess.run([sys.executable, "-m", "pytest", *TESTS], check=False).returncode:
        print("error: the kernels' tests fail, so nothing is timed", file=sys.stderr)
        return 1
    dtype = getattr(torch, args.dtype)
    args.output.mkdir(parents=True, exist_ok=True)
    shapes = [(b, k, c, mode) for mode in MODES for k in args.tasks for c in args.labels for b in args.batch]
    result: dict[str, Any] = {"machine": machine(), "dtype": args.dtype, "ceilings": ceilings(dtype), "rows": []}
    for batch, tasks, labels, mode in tqdm(shapes):
        result["rows"] += measure(batch, tasks, labels, mode, dtype)
        # A run that is stopped keeps what it has measured.
        (args.output / "measurements.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.output / "table.md").write_text(table(result["rows"]))
    plot(result["rows"], args.output / "plot.png")
    print(json.dumps(result["machine"] | result["ceilings"]), table(result["rows"]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
