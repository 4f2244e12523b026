"""The benchmark's rivals compute the same, and its table says what was measured; the times need a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure

from bench import kernels as benchmark
from bench.harness import percentiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("backward", [False, True])
def test_rivals_agree(backward, monkeypatch):
    monkeypatch.setattr(benchmark, "WIDTH", 128)
    torch.manual_seed(0)
    heads = benchmark.Heads(5, 3, 12, torch.float32, DEVICE, dropout=0.0)
    results = []
    for rival in (heads.eager, heads.stacked, heads.fused):
        torch.manual_seed(1)
        results.append(benchmark.step(heads, rival, backward)())
    assert len(results[0]) == (7 if backward else 2)
    for theirs in results[1:]:
        for ours, other in zip(results[0], theirs, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-4)


def test_work_is_counted():
    heads = benchmark.Heads(4, 2, 12, torch.bfloat16, "cpu", dropout=0.0)
    assert heads.flops(backward=False) == 2 * 4 * 2 * (512 * 512 + 512 * 12)
    weights = 2 * (512 + 512 * 512 + 512 + 12 * 512 + 12)
    assert heads.bytes(backward=False) == 2 * (2 * 4 * 512 + weights) + 4 * (2 * 24 + 4 * 2)


def rows(host: dict[str, float], graph: dict[str, float]) -> list[dict]:
    shapes = [(b, k, mode) for b in (1, 1024) for k in (1, 8) for mode in benchmark.MODES]
    return [
        {"batch": b, "tasks": k, "labels": 12, "mode": mode, "rival": name, "launches": 1}
        | {"tflops": 2.5, "gigabytes_per_s": 700.4}
        | {"host_us": percentiles([host[name]]), "graph_us": percentiles([graph[name] * b])}
        for b, k, mode in shapes
        for name in host
    ]


def test_goals_are_ratios_of_medians():
    measured = rows({"fused": 10, "eager": 50, "compiled": 20}, {"fused": 4, "eager": 8, "compiled": 6})
    measured[-1]["graph_us"] = percentiles([2048.0])  # compiled wins once, beyond batch 512
    assert [round(value, 3) for _, value, _ in benchmark.verdicts(measured)] == [5.0, 5.0, 5.0, 1.5, 0.5]
    result = {"rows": measured, "ceilings": {"tflops": 612.4, "gigabytes_per_s": 2999.6}}
    text = benchmark.table(result)
    assert "this GPU reaches 612 TFLOP/s and 3000 GB/s" in text
    assert "| forward | 8 | 12 | 1 | 10.0 / 4.0 (1) | 50.0 / 8.0 (1) | 20.0 / 6.0 (1) | 2.5, 700 |" in text
    figure = Figure()
    benchmark.draw(result, figure)
    assert len(figure.axes) == 4 and [len(axes.lines) for axes in figure.axes] == [3] * 4
    fused = figure.axes[0].lines[0].get_xydata().tolist()
    assert fused == [[1.0, 4.0], [1024.0, 4096.0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run the benchmark")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "bench.kernels", "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "no CUDA device" in result.stderr and not (tmp_path / "out").exists()
