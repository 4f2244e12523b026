"""Times every tile that might suit the fused kernels, on one GPU: what the tables of tiles in kernels/ are chosen by.

    python -m bench.kernel_tiles --output runs/bench/kernel_tiles

`forward` varies the forward kernel's tile and over how many programs it splits the hidden units, `rows` the first and
`sums` the second launch of the backward pass, the other as the table has it. A figure is one replay of a CUDA graph.
All tiles are compiled first, in as many processes as there are cores; one that does not fit the GPU is left out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm
from triton.runtime.errors import OutOfResources

from bench.harness import Report
from bench.kernels import WIDTH, Heads, captured, graph_time
from cma_clip.command import command
from cma_clip.machine import usable_cores
from cma_clip.tables import markdown
from kernels.backward import backward, row_tiles, sum_tiles
from kernels.blocks import Inputs, Tiles
from kernels.forward import forward, splits_of, tiles

BATCHES = (1, 16, 64, 256, 1024, 4096)
TASKS = (1, 8)
LABELS = (12, 121)
# rows, width, hidden units, warps, stages; the labels are the task's, rounded up
FORWARD = (
    (16, 64, 32, 4, 4), (16, 128, 32, 4, 4), (16, 64, 64, 2, 4), (16, 128, 64, 4, 3), (16, 128, 64, 4, 4),
    (16, 128, 64, 8, 3), (16, 128, 128, 4, 3), (32, 64, 64, 4, 4), (32, 128, 64, 4, 3), (32, 64, 128, 4, 3),
    (32, 64, 128, 8, 3), (64, 64, 64, 4, 4), (64, 64, 64, 8, 3), (64, 64, 128, 4, 3), (64, 64, 128, 8, 3),
    (64, 128, 128, 8, 2), (128, 64, 64, 8, 3), (128, 64, 128, 8, 3), (16, 128, 256, 4, 2), (32, 64, 256, 4, 2),
    (64, 32, 256, 8, 3), (64, 64, 256, 8, 2), (128, 64, 256, 8, 2),
)  # fmt: skip
ROWS = (
    (16, 32, 64, 4, 4), (16, 64, 64, 4, 3), (16, 64, 128, 4, 3), (16, 128, 64, 4, 3), (32, 64, 64, 4, 3),
    (32, 128, 64, 4, 3), (64, 64, 64, 4, 3), (64, 64, 64, 8, 3), (64, 64, 128, 8, 2), (64, 128, 64, 8, 2),
    (64, 128, 64, 8, 3), (128, 128, 64, 8, 2), (16, 256, 64, 4, 2), (32, 256, 64, 4, 2), (32, 256, 64, 8, 2),
    (64, 256, 64, 8, 2), (16, 512, 32, 4, 2), (32, 512, 32, 8, 2),
)  # fmt: skip
SUMS = (
    (32, 32, 32, 4, 4), (32, 64, 64, 4, 3), (32, 64, 64, 8, 4), (64, 32, 64, 4, 3), (64, 64, 32, 4, 3),
    (64, 64, 64, 4, 3), (64, 64, 64, 8, 3), (64, 128, 64, 8, 3), (64, 64, 128, 8, 3), (128, 64, 64, 8, 2),
    (64, 128, 128, 8, 2), (128, 128, 64, 8, 2), (128, 64, 128, 8, 2), (128, 64, 64, 4, 2), (64, 128, 64, 4, 2),
)  # fmt: skip


class Shape(NamedTuple):
    batch: int
    tasks: int
    labels: int


class Candidate(NamedTuple):
    """A tile of one launch; `splits` of the forward kernel."""

    launch: str
    tile: Tiles
    splits: int = 1

    def __str__(self) -> str:
        rows, width, hidden, labels, warps, stages = self.tile
        splits = f" split {self.splits}" if self.launch == "forward" else ""
        return f"{rows}x{width}x{hidden}x{labels} warps {warps} stages {stages}{splits}"


def in_use(shape: Shape, dtype: torch.dtype) -> list[Candidate]:
    """What the tables say."""
    tile = tiles(shape.batch, shape.tasks, shape.labels, dtype)
    label_tiles = (shape.labels + tile.labels - 1) // tile.labels
    rest = [
        Candidate("rows", row_tiles(shape.batch, shape.labels, dtype)),
        Candidate("sums", sum_tiles(shape.batch, dtype)),
    ]
    return [Candidate("forward", tile, splits_of(shape.batch, shape.tasks, label_tiles, WIDTH, tile)), *rest]


def candidates(shape: Shape, dtype: torch.dtype) -> list[Candidate]:
    """Those in use, and all others; no tile of rows that are mostly empty."""
    labels, most_rows = 32 if shape.labels <= 32 else 128, max(16, 2 * shape.batch)
    found = in_use(shape, dtype)
    for rows, width, hidden, *rest in FORWARD:
        tile, counts = Tiles(rows, width, hidden, labels, *rest), (n for n in (1, 2, 4, 8, 16) if n <= WIDTH // hidden)
        found += [Candidate("forward", tile, n) for n in counts]
    found += [Candidate("rows", Tiles(*tile[:3], labels, *tile[3:])) for tile in ROWS]
    found += [Candidate("sums", Tiles(*tile[:3], 64, *tile[3:])) for tile in SUMS]
    few = (each for each in found[3:] if each.launch == "sums" or each.tile.rows <= most_rows)
    return list(dict.fromkeys([*found[:3], *few]))


@contextmanager
def using(candidate: Candidate) -> Iterator[None]:
    """The launchers take it instead of what their table says."""
    place = {"forward": "forward.tiles", "rows": "backward.row_tiles", "sums": "backward.sum_tiles"}
    with ExitStack() as patches:
        patches.enter_context(patch(f"kernels.{place[candidate.launch]}", lambda *_: candidate.tile))
        if candidate.launch == "forward":
            patches.enter_context(patch("kernels.forward.splits_of", lambda *_: candidate.splits))
        yield


def launcher(shape: Shape, dtype: torch.dtype, launch: str, device: str = "cuda") -> Callable[[], Any]:
    """The forward pass in evaluation, or the backward pass."""
    heads = Heads(*shape, dtype, device, 0.0)
    weights = (heads.relevance, heads.w1, heads.b1, heads.w2, heads.b2)
    inputs = Inputs(heads.text, heads.image, heads.present, *weights, heads.first_label)
    counters = torch.zeros(1 << 16, dtype=torch.int32, device=device)
    work = partial(forward, inputs, None, None, shape.labels, 0.0, dtype, launch != "forward", counters)
    if launch == "forward":
        return work
    logits, share, saved = work()
    d_logits: Tensor = torch.randn_like(logits)
    return partial(backward, inputs, share, saved, d_logits, None, shape.labels, 0.0)


def compile_one(candidate: Candidate, shape: Shape, dtype: torch.dtype) -> str | None:
    """Why the GPU cannot run it; None if it can. Triton keeps what it compiled on disk."""
    try:
        with torch.no_grad(), using(candidate):
            launcher(shape, dtype, candidate.launch)()
    except OutOfResources as error:
        return str(error)
    return None


def unfit(shapes: Sequence[Shape], dtype: torch.dtype) -> dict[tuple[str, Tiles], str]:
    """Tiles that this GPU cannot run, with the reason."""
    found = {(c.launch, c.tile): (c, shape) for shape in shapes for c in candidates(shape, dtype)}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), context) as pool:
        waiting = {key: pool.submit(compile_one, *each, dtype) for key, each in found.items()}
        reasons = {key: future.result() for key, future in tqdm(waiting.items(), "compiling")}
    return {key: reason for key, reason in reasons.items() if reason}


def measure(shape: Shape, dtype: torch.dtype, without: set[tuple[str, Tiles]]) -> list[dict[str, Any]]:
    """A row for each candidate."""
    rows, used = [], in_use(shape, dtype)
    for launch in ("forward", "rows", "sums"):
        with torch.no_grad():
            work = launcher(shape, dtype, launch)
            for candidate in candidates(shape, dtype):
                if candidate.launch == launch and (launch, candidate.tile) not in without:
                    with using(candidate):
                        graph = captured(work)
                    row = {**shape._asdict(), "launch": launch, "tile": candidate.tile, "splits": candidate.splits}
                    named = {"name": str(candidate), "in_use": candidate in used}
                    rows.append(row | named | {"graph_us": median(graph_time(graph, 3, 30))})
    return rows


def table(result: dict[str, Any]) -> str:
    """For each shape the tile in use beside the fastest; then the three that lose least over all numbers of tasks."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in result["rows"]:
        cells[row["launch"], row["tasks"], row["labels"], row["batch"]].append(row)
    lines, losses = [], defaultdict(list)
    for (launch, *shape), rows in cells.items():
        used, best = next(row for row in rows if row["in_use"]), min(rows, key=lambda row: row["graph_us"])
        ratio = used["graph_us"] / best["graph_us"]
        times = (used["name"], f"{used['graph_us']:.1f}", best["name"], f"{best['graph_us']:.1f}", f"{ratio:.2f}")
        lines.append([launch, *shape, *times])
        for row in rows:
            losses[launch, shape[1] > 32, shape[2], row["name"]].append(row["graph_us"] / best["graph_us"])
    head = ["launch", "K", "C", "B", "in use", "µs", "fastest", "µs", "times as long"]
    ranked: dict[tuple[Any, ...], list[tuple[float, str]]] = defaultdict(list)
    for (launch, many, batch, name), ratios in losses.items():
        ranked[launch, many, batch].append((geometric_mean(ratios), name))
    best_three = [
        [launch, "over 32" if many else "to 32", batch, *(f"{name}: {loss:.2f}" for loss, name in sorted(each)[:3])]
        for (launch, many, batch), each in ranked.items()
    ]
    head_three = ["launch", "labels", "B", "first over all K", "second", "third"]
    return f"{markdown(head, lines)}\n{markdown(head_three, best_three)}"


def draw(result: dict[str, Any], figure: Figure) -> None:
    """How many times as long as the fastest the tile in use takes, over the batch."""
    axes = figure.subplots()
    fastest: dict[tuple[Any, ...], float] = {}
    for row in result["rows"]:
        key = row["launch"], row["tasks"], row["labels"], row["batch"]
        fastest[key] = min(fastest.get(key, row["graph_us"]), row["graph_us"])
    used = {(r["launch"], r["tasks"], r["labels"], r["batch"]): r["graph_us"] for r in result["rows"] if r["in_use"]}
    for name in dict.fromkeys(key[:3] for key in fastest):
        line = [(key[3], used[key] / fastest[key]) for key in fastest if key[:3] == name]
        axes.semilogx(*zip(*sorted(line), strict=True), marker=".", label="{}, {} tasks of {} labels".format(*name))
    axes.set(xlabel="batch", ylabel="times the fastest tile")
    axes.legend(fontsize=7)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time tiles of the fused kernels on one GPU")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/kernel_tiles)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS)
    parser.add_argument(
        "--compile-only", action="store_true", help="so that the times can be taken on a quiet GPU later"
    )
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device: times of the kernels mean something only on a GPU")
    dtype = getattr(torch, args.dtype)
    shapes = [Shape(b, k, c) for k in args.tasks for c in args.labels for b in args.batch]
    reasons = unfit(shapes, dtype)
    left_out = {f"{launch} {tuple(tile)}": reason for (launch, tile), reason in reasons.items()}
    if args.compile_only:
        return 0
    with Report("kernel_tiles", args.output, table, draw, dtype=args.dtype, left_out=left_out) as report:
        for shape in tqdm(shapes):
            report.add(*measure(shape, dtype, set(reasons)))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
