"""Time an engine on this machine beside eager torch in one run: latency, products a second, memory.

    python -m bench.engines BUNDLE --runtime torch --batch 1 8 64

The engine is exported first, which compares it with torch: one that differs is not timed. --deploy takes one that was
exported from this bundle before. It is called as the server calls it, NumPy in and NumPy out, and so is the network
in eager torch: in bf16 by autocast on a GPU, else float32.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from bench.device import Memory, device
from bench.harness import Report, in_turn, percentiles, seconds_of
from cma_clip.command import command
from cma_clip.files import file_sha256
from cma_clip.tables import markdown
from model.bundle import Bundle, load_bundle
from model.config import BundleConfig
from serve.engines import Run
from serve.export.parity import Inputs, random_inputs
from serve.export.publish import export
from serve.runtimes import RUNTIMES, engine_class, load_engine, row_of
from serve.sets import served_set
from serve.stamp import EngineStamp

ROUNDS, SECONDS = 5, 10.0
COLUMNS = ("B", "T", "engine", "median ms", "p20", "p80", "products/s", "times eager", "memory MB")
Shapes = Sequence[tuple[int, int]]


def eager(bundle: Bundle) -> Run:
    """The network in eager torch."""
    where = device()
    network = copy.deepcopy(bundle.network).to(where)

    @torch.inference_mode()
    def run(*inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.autocast(where.type, torch.bfloat16, enabled=where.type == "cuda"):
            logits, text_share = network(*(torch.from_numpy(array).to(where) for array in inputs))
        return logits.float().cpu().numpy(), text_share.cpu().numpy()

    return run


def load(loader: Callable[[], Run], config: BundleConfig, shapes: Shapes) -> tuple[Run, dict[tuple[int, int], int]]:
    """An engine after its first call of each shape, and its peak bytes then, the shapes before included."""
    memory, run, peaks = Memory(), loader(), {}
    for shape in shapes:
        run(*random_inputs(config, *shape, seed=0))
        peaks[shape] = memory.peak_bytes()
    return run, peaks


def turn(run: Run, inputs: Inputs, calls: int) -> list[float]:
    """Milliseconds of calls one after another, the caller waiting for each; fewer where SECONDS / ROUNDS are over.

    A first call, which finds the threads of the rival still spinning, is not among them.
    """
    run(*inputs)
    times: list[float] = []
    while len(times) < calls and sum(times) < 1e3 * SECONDS / ROUNDS:
        times.append(1e3 * seconds_of(lambda: run(*inputs)))
    return times


def measure(
    loaders: Mapping[str, Callable[[], Run]], config: BundleConfig, shapes: Shapes, calls: int
) -> Iterator[list[dict[str, Any]]]:
    """For each shape (batch, title length) a row for each rival."""
    loaded = {name: load(loader, config, shapes) for name, loader in loaders.items()}
    for batch, length in shapes:
        inputs = random_inputs(config, batch, length, seed=0)
        turns = {name: partial(turn, run, inputs, -(-calls // ROUNDS)) for name, (run, _) in loaded.items()}
        rows = []
        for name, times in in_turn(turns, ROUNDS).items():
            spread = percentiles(list(itertools.chain(*times)))
            row = {"name": name, "batch": batch, "length": length, "calls": sum(map(len, times))}
            row |= {f"{percent}_ms": value for percent, value in spread.items()}
            row |= {"products_per_s": 1e3 * batch / spread["median"], "peak_bytes": loaded[name][1][batch, length]}
            rows.append(row)
        yield rows


def exported(bundle: Bundle, deploy: Path, runtime: str) -> dict[str, Any]:
    """The parity report of the engine in `deploy`.

    Raises:
        ValueError: there is none, it is damaged, of another bundle, or does not fit this machine.
    """
    steps = served_set(deploy)
    file, served = steps.folder("engine") / "1" / row_of(runtime).file, steps.bundle
    stamp = EngineStamp.read(file)
    if BundleConfig.read(served) != bundle.config:
        raise ValueError(f"{served}: is of another bundle; export this one, or leave out --deploy")
    if reason := stamp.mismatch(file, file_sha256(served), *engine_class(runtime).machine()) or stamp.damage(file):
        raise ValueError(reason)
    return stamp.parity


def table(result: dict[str, Any]) -> str:
    """Shape by shape."""
    rows, lines = result["rows"], []
    rival = {(r["batch"], r["length"]): r["median_ms"] for r in rows if r["name"].startswith("eager")}
    for r in rows:
        times = (f"{r[name]:.2f}" for name in ("median_ms", "p20_ms", "p80_ms"))
        ratio, megabytes = rival[r["batch"], r["length"]] / r["median_ms"], r["peak_bytes"] / 1e6
        rate = f"{r['products_per_s']:.0f}"
        lines.append([r["batch"], r["length"], r["name"], *times, rate, f"{ratio:.2f}", f"{megabytes:.0f}"])
    return markdown(COLUMNS, lines)


def draw(result: dict[str, Any], figure: Figure) -> None:
    """Products a second over the batch."""
    axes, rows = figure.subplots(), result["rows"]
    for name, length in dict.fromkeys((r["name"], r["length"]) for r in rows):
        line = [(r["batch"], r["products_per_s"]) for r in rows if (r["name"], r["length"]) == (name, length)]
        axes.loglog(*zip(*line, strict=True), marker=".", label=f"{name}, {length} ids")
    axes.set(xlabel="batch", ylabel="products/s")
    axes.legend()


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Refuses an engine that cannot be built or loaded here, or differs from torch."""
    parser = argparse.ArgumentParser(description="time an engine beside eager torch")
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument("--runtime", choices=list(RUNTIMES), required=True)
    parser.add_argument("--precision", help="of the matrix products (default: the runtime's own)")
    parser.add_argument("--data", type=Path, help="data set to compare on and to calibrate int8 on")
    parser.add_argument("--deploy", type=Path, help="model repository that holds the engine (default: exported anew)")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--length", type=int, nargs="+", help="ids a title (default: second and longest of the bundle)")
    parser.add_argument("--calls", type=int, default=200, help="at most, for each figure")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/engines)")
    args = parser.parse_args(arguments)
    bundle, file = load_bundle(args.bundle), row_of(args.runtime).file
    shapes = list(itertools.product(args.batch, args.length or bundle.config.preprocess.title_lengths[1::3]))
    parameters = {"precision": args.precision} if args.precision and args.runtime == "tensorrt" else {}
    with tempfile.TemporaryDirectory() as folder:
        deploy = args.deploy or Path(folder) / "deploy"
        if args.deploy:
            reports = exported(bundle, deploy, args.runtime)
        else:
            reports = export(args.bundle, deploy, args.runtime, args.precision, args.data)
        loaders: dict[str, Callable[[], Run]] = {
            args.runtime: lambda: load_engine(args.runtime, deploy / "engine/1" / file, parameters),
            f"eager {'bf16' if torch.cuda.is_available() else 'f32'}": lambda: eager(bundle),
        }
        versions, _ = engine_class(args.runtime).machine()
        with Report("engines", args.output, table, draw, engine=versions, parity=reports) as report:
            for rows in measure(loaders, bundle.config, shapes, args.calls):
                report.add(*rows)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
