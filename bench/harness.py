"""What all benchmarks share: rivals in turn, percentiles, tables, and a report that keeps what was measured.

A benchmark runs inside a Report and hands it every row as soon as it is measured.
"""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import psutil
from matplotlib.figure import Figure

from cma_clip.command import Failure
from cma_clip.files import write_atomically
from cma_clip.machine import commit, processor

PACKAGES = (
    "torch", "triton", "deepspeed", "numpy", "pillow", "simplejpeg", "cykooz-resizer", "openvino", "onnxruntime",
    "tensorrt", "tritonclient", "grpcio",
)  # fmt: skip
SPREAD = {"p20": 20.0, "median": 50.0, "p80": 80.0}

T = TypeVar("T")


def in_turn(rivals: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each rival gives in each round; A B A B ..., so that a noisy machine is fair to all."""
    given: dict[str, list[T]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, turn in rivals.items():
            given[name].append(turn())
    return given


def seconds_of(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long one call takes."""
    start = clock()
    work()
    return clock() - start


def percentiles(values: Sequence[float], percents: Mapping[str, float] = SPREAD) -> dict[str, Any]:
    """Name -> percentile of the values; None where there are none."""
    found = np.percentile(values, list(percents.values())).tolist() if len(values) else [None] * len(percents)
    return dict(zip(percents, found, strict=True))


def number(value: float | None) -> str:
    """Four digits are more than a run on a shared machine can carry; `-` for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def machine() -> dict[str, Any]:
    """Hardware, versions, commit and command line of this process."""
    installed = {found.name.lower(): found.version for found in distributions()}
    versions = {name: installed[name] for name in PACKAGES if name in installed}
    return {
        **processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions},
        "commit": commit(),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
    }


def _gpu() -> str | None:
    """Name and driver of each, by nvidia-smi; None where there is none."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None


class Report:
    """A directory with result.json from the first row on, and at the end, or when stopped, table.md and plot.png.

    Args:
        name: of the benchmark.
        output: the directory; None is runs/bench/NAME.
        table: the result as Markdown.
        draw: the result on an empty figure.
        about: what else the figures depend on.
    """

    def __init__(
        self,
        name: str,
        output: Path | None,
        table: Callable[[dict[str, Any]], str],
        draw: Callable[[dict[str, Any], Figure], None],
        **about: Any,
    ) -> None:
        self.folder, self.table, self.draw = output or Path("runs/bench") / name, table, draw
        self.result: dict[str, Any] = {"machine": machine(), **about}

    def add(self, *rows: dict[str, Any]) -> None:
        self.save(rows=[*self.result.get("rows", []), *rows])

    def save(self, **figures: Any) -> None:
        """Add to the result; `verdict` is claim -> whether it holds."""
        self.result |= figures
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "result.json", json.dumps(self.result, indent=1) + "\n")

    @property
    def exit_code(self) -> int:
        """1 where a claim does not hold."""
        return 0 if all(self.result.get("verdict", {}).values()) else 1

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.result.keys() & {"rows", "verdict"}:
            self._finish()
        if kind is KeyboardInterrupt:
            raise Failure(f"stopped; what was measured until then is in {self.folder}/") from None

    def _finish(self) -> None:
        where, verdict = self.result["machine"], self.result.get("verdict", {})
        versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
        hardware = f"{where['gpu'] or 'no GPU'}; {where['cpu']}, {where['cores']} cores"
        claims = "".join(f"\n{'yes' if holds else 'NO '}  {claim}" for claim, holds in verdict.items())
        head = f"`{where['command']}`\n\n{hardware}; commit {where['commit']}; {versions}\n\n"
        text = f"{head}{self.table(self.result)}{claims}{chr(10) if claims else ''}"
        write_atomically(self.folder / "table.md", text)
        figure = Figure(layout="constrained")
        self.draw(self.result, figure)
        figure.savefig(self.folder / "plot.png", dpi=110)
        print(f"{text}\n{self.folder}/: result.json, table.md, plot.png")
