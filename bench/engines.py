"""Time an engine on this machine beside eager torch in one run: latency, products a second, memory.

    python -m bench.engines BUNDLE --runtime torch --batch 1 8 64 --output runs/benchmark

The engine is exported first, which compares it with torch: one that differs is not timed. It is called as the server
calls it, NumPy in and NumPy out, and so is the same network in eager torch: in bf16 by autocast on a GPU, else float32.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cma_clip.files import write_atomically
from cma_clip.machine import commit, processor
from model.bundle import Bundle, load_bundle
from serve.engines import CLASSES, EXPORTED_AS, engine_class, load_engine
from serve.export.parity import Run, random_inputs
from serve.export.publish import export

WARM_UP, SECONDS = 5, 10.0


def eager(bundle: Bundle) -> Run:
    """The network in eager torch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = copy.deepcopy(bundle.network).to(device)

    @torch.inference_mode()
    def run(*inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits, text_share = network(*(torch.from_numpy(array).to(device) for array in inputs))
        return logits.float().cpu().numpy(), text_share.cpu().numpy()

    return run


def bytes_in_use() -> int:
    """Of the GPU, whose allocators keep what they once had; without one, of this process at its peak."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def latency(run: Run, inputs: Sequence[np.ndarray], calls: int) -> dict[str, float]:
    """Milliseconds of calls one after another, the caller waiting for each; fewer calls where SECONDS are over."""
    for _ in range(WARM_UP):
        run(*inputs)
    times: list[float] = []
    begin = time.perf_counter()
    while len(times) < calls and time.perf_counter() - begin < SECONDS:
        start = time.perf_counter()
        run(*inputs)
        times.append(1e3 * (time.perf_counter() - start))
    p20, median, p80 = np.percentile(times, (20, 50, 80)).tolist()
    rate = 1e3 * len(inputs[0]) / median
    return {"p20_ms": p20, "median_ms": median, "p80_ms": p80, "products_per_s": rate, "calls": len(times)}


def measure(
    name: str, load: Callable[[], Run], bundle: Bundle, batches: Sequence[int], lengths: Sequence[int], calls: int
) -> list[dict[str, Any]]:
    """A row for each batch size and title length; memory counts from before loading, and the rows before."""
    torch.cuda.empty_cache()
    Path("/proc/self/clear_refs").write_text("5")  # the process's peak begins anew (man 5 proc)
    before, run, rows = bytes_in_use(), load(), []
    for batch, length in itertools.product(batches, lengths):
        times = latency(run, random_inputs(bundle.config, batch, length, seed=0), calls)
        rows.append({"name": name, "batch": batch, "length": length, **times, "peak_bytes": bytes_in_use() - before})
    return rows


def machine(runtime: str) -> dict[str, Any]:
    versions = {"python": platform.python_version(), "torch": torch.__version__, **engine_class(runtime).machine()[0]}
    cpu = processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"gpu": gpu, "cpu": f"{cpu['cpu']}, {cpu['cores']} cores", "versions": versions, "commit": commit()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, shape by shape."""
    columns = ("B", "T", "engine", "median ms", "p20", "p80", "products/s", "times eager", "memory MB")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rival = {(r["batch"], r["length"]): r["median_ms"] for r in rows if r["name"].startswith("eager")}
    for r in sorted(rows, key=lambda r: (r["batch"], r["length"])):
        ratio, megabytes = rival[r["batch"], r["length"]] / r["median_ms"], r["peak_bytes"] / 1e6
        times = f"{r['median_ms']:.2f} | {r['p20_ms']:.2f} | {r['p80_ms']:.2f} | {r['products_per_s']:.0f}"
        lines.append(f"| {r['batch']} | {r['length']} | {r['name']} | {times} | {ratio:.2f} | {megabytes:.0f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description="time an engine beside eager torch")
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument("--runtime", choices=list(CLASSES), required=True)
    parser.add_argument("--precision", help="of the matrix products (default: the runtime's own)")
    parser.add_argument("--data", type=Path, help="data set to compare on and to calibrate int8 on")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--length", type=int, nargs="+", help="ids a title (default: second and longest of the bundle)")
    parser.add_argument("--calls", type=int, default=200, help="at most, for each figure")
    parser.add_argument("--output", type=Path, help="directory for benchmark.json and .md")
    args = parser.parse_args(arguments)
    try:
        result = compare_with_eager(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result["machine"]), table(result["rows"]), sep="\n")
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
        write_atomically(args.output / "benchmark.json", json.dumps(result, indent=1) + "\n")
        write_atomically(args.output / "benchmark.md", table(result["rows"]))
    return 0


def compare_with_eager(args: argparse.Namespace) -> dict[str, Any]:
    """Raises ValueError where the engine cannot be built or loaded here, or differs from torch."""
    bundle, engine = load_bundle(args.bundle), engine_class(args.runtime)
    shapes = (bundle, args.batch, args.length or bundle.config.preprocess.title_lengths[1::3], args.calls)
    parameters = {"precision": args.precision} if args.precision and args.runtime == "tensorrt" else {}
    with tempfile.TemporaryDirectory() as folder:
        deploy = Path(folder) / "deploy"
        reports = export(args.bundle, deploy, EXPORTED_AS.get(args.runtime, args.runtime), args.precision, args.data)
        path = deploy / "engine/1" / engine.FILE
        rows = measure(args.runtime, lambda: load_engine(args.runtime, path, parameters), *shapes)
    rows += measure(f"eager {'bf16' if torch.cuda.is_available() else 'f32'}", lambda: eager(bundle), *shapes)
    return {"machine": machine(args.runtime), "parity": reports, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
