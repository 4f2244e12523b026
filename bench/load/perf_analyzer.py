"""NVIDIA's perf_analyzer on the same products, as a check of this package's own figures."""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.load.requests import Product, with_length
from client.protocol import MODEL


def check(binary: Path) -> None:
    """That the binary runs here.

    Raises:
        ValueError: it does not; the message says why.
    """
    try:
        result = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False)
    except OSError as error:
        raise ValueError(f"{binary}: {error.strerror}") from error
    if result.returncode:
        raise ValueError(f"{binary}: {_last_line(result)}")


def measure(binary: Path, url: str, products: Sequence[Product], concurrency: int, seconds: float) -> dict[str, float]:
    """Throughput and p50, p99 in ms at a fixed number of callers.

    Raises:
        ValueError: it measured nothing; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "products.json", Path(folder) / "report.csv"
        data.write_text(json.dumps({"data": [_product(*product) for product in products]}))
        command = [binary, "-m", MODEL, "-u", url, "-i", "grpc", "--async", "--input-data", data, "-f", report]
        command += ["--concurrency-range", concurrency, "--measurement-interval", round(1000 * seconds)]
        command += ["--percentile", 99, "--max-trials", 5, "--stability-percentage", 50]
        result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if not report.is_file():
            raise ValueError(f"{binary}: {_last_line(result)}")
        with report.open() as file:
            row = next(csv.DictReader(file))
    figures = {"throughput": float(row["Inferences/Second"])}
    return figures | {f"p{p}_ms": float(row[f"p{p} latency"]) / 1000 for p in (50, 99)}


def _product(title: bytes, image: bytes) -> dict[str, dict[str, str]]:
    """Base64 of a BYTES tensor is taken as its raw content, so the length stands in front."""
    encoded = {"TITLE": base64.b64encode(with_length(title)), "IMAGE": base64.b64encode(with_length(image))}
    return {name: {"b64": value.decode()} for name, value in encoded.items()}


def _last_line(result: subprocess.CompletedProcess[str]) -> str:
    said = result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}"
    return said.splitlines()[-1]
