"""Figures as Markdown and as JSON, with what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tritonclient.grpc as triton

from cma_clip.machine import commit, processor

PACKAGES = ("tritonclient", "grpcio", "numpy", "pillow", "openvino", "onnxruntime")


def machine() -> dict[str, Any]:
    """Hardware, versions, commit and command line of this run."""
    return {
        **processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": commit(),
        "command": " ".join(["python", "-m", "bench.load", *sys.argv[1:]]),
    }


def server(url: str) -> dict[str, str]:
    """Name and version of the server."""
    with triton.InferenceServerClient(url) as client:
        about = client.get_server_metadata()
    return {"url": url, "name": about.name, "version": about.version}


def _gpu() -> str | None:
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except ModuleNotFoundError:
        return None


def sweep_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per number of callers; a step's cell is queue + compute in ms, and its mean batch."""
    steps = list(rows[0]["steps"])
    head = [
        "callers",
        "p50 ms",
        "p99 ms",
        "requests/s",
        "failures",
        *(f"{s} queue + compute ms (batch)" for s in steps),
    ]
    if analyzed := any("perf_analyzer" in row for row in rows):
        head.append("perf_analyzer p50 ms, p99 ms, requests/s")
    lines = []
    for row in rows:
        cells = [row["concurrency"], number(row["p50_ms"]), number(row["p99_ms"]), number(row["throughput"])]
        cells.append(failures(row["failures"]))
        times = row["steps"].values()
        cells += [f"{number(s['queue_ms'])} + {number(s['compute_ms'])} ({s['batch']:.1f})" for s in times]
        if analyzed:
            cells.append(", ".join(number(row["perf_analyzer"][key]) for key in ("p50_ms", "p99_ms", "throughput")))
        lines.append(cells)
    return markdown(head, lines)


def overload_table(result: dict[str, Any]) -> str:
    head = ["load", "requests/s sent", "answered/s", "p50 ms", "p99 ms", "failures", "generator late p99 ms"]
    lines = []
    for name, share in (("before", 0.5), ("during", result["factor"]), ("after", 0.5)):
        f = result[name]
        cells = [f"{name} ({share:g} x capacity)", number(share * result["capacity"]), number(f["throughput"])]
        lines.append(
            [*cells, number(f["p50_ms"]), number(f["p99_ms"]), failures(f["failures"]), number(f["late_p99_ms"])]
        )
    refused = [[name, r["count"], number(r["p50_ms"]), number(r["p99_ms"])] for name, r in result["rejected"].items()]
    recovered = "not within the limit" if result["recovered_s"] is None else f"after {result['recovered_s']:g} s"
    parts = [f"capacity {number(result['capacity'])} requests/s; normal again {recovered}\n", markdown(head, lines)]
    parts.append(markdown(["refused because", "count", "p50 ms", "p99 ms from sending"], refused))
    return "\n".join(parts)


def soak_table(result: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {expected}" for expected, count in sorted(result["expected"].items()))
    head = f"{result['sent']} requests in {result['seconds']:.0f} s ({number(result['throughput'])} OK/s): {counts}"
    wrong = [f"expected {expected}, got {got}: {count} times" for expected, got, count in result["unexpected"]]
    rows = [[name, number(g["last"]), number(g["growth"]), number(g["allowed"])] for name, g in result["grown"].items()]
    table = markdown(["watched", "at the end", "growth after warm-up", "allowed"], rows)
    return "\n".join([head, *wrong, *([result["fault"]] if result["fault"] else []), "", table])


def compare_table(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    head = ["callers"]
    for name in names:
        head += [f"{name} requests/s", f"{name} p50 ms"]
    head += [f"{names[0]} / {names[1]}, median of rounds (least to most)", "p50 more, ms"]
    lines = []
    for row in rows:
        cells = [row["concurrency"]]
        for name in names:
            cells += [number(row[name]["throughput"]), number(row[name]["p50_ms"])]
        spread = f"{min(row['ratios']):.3f} to {max(row['ratios']):.3f}"
        lines.append([*cells, f"{row['ratio']:.3f} ({spread})", number(row["p50_more_ms"])])
    return markdown(head, lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def number(value: float | None) -> str:
    """Four digits are more than a run on a shared machine can carry."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def failures(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "0"


def write(output: Path, result: dict[str, Any], table: str) -> None:
    """`table.md` and `result.json`."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(f"`{result['machine']['command']}`\n\n{table}")
    (output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
