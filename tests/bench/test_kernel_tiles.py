"""The benchmark of tiles launches what it names, and its tables say which is fastest; the times need a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from matplotlib.figure import Figure

from bench import kernel_tiles as benchmark
from bench.kernel_tiles import Candidate, Shape
from kernels.blocks import Tiles

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Shape(17, 2, 12)


@pytest.mark.parametrize("launch", ["forward", "rows", "sums"])
def test_every_tile_computes_the_same(launch: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bench.kernels.WIDTH", 128)
    torch.manual_seed(0)
    work = benchmark.launcher(SMALL, torch.float32, launch, DEVICE)
    tiles = [
        Candidate(launch, Tiles(16, 64, 64, 32, 4, 2), splits) for splits in ((1, 2) if launch == "forward" else (1,))
    ]
    tiles.append(Candidate(launch, Tiles(32, 128, 32, 64, 4, 2)))
    with torch.no_grad():
        expected = work()
        for tile in tiles:
            with benchmark.using(tile):
                found = work()
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_is_in_use_comes_first_and_no_tile_is_mostly_empty():
    found = benchmark.candidates(SMALL, torch.bfloat16)
    assert [each.launch for each in found[:3]] == ["forward", "rows", "sums"] and len(set(found)) == len(found) > 40
    assert max(each.tile.rows for each in found if each.launch == "forward") == 32
    assert {each.splits for each in found if each.launch == "forward" and each.tile.hidden == 128} == {1, 2, 4}


def rows() -> list[dict]:
    shape = {"batch": 64, "tasks": 8, "labels": 12, "launch": "forward"}
    times = {"a": (8.0, True), "b": (4.0, False), "c": (6.0, False), "d": (9.0, False)}
    return [shape | {"name": name, "graph_us": time, "in_use": used} for name, (time, used) in times.items()]


def test_the_table_has_the_tile_in_use_beside_the_fastest():
    text = benchmark.table({"rows": rows()})
    assert "| forward | 8 | 12 | 64 | a | 8.0 | b | 4.0 | 2.00 |" in text
    assert "| forward | to 32 | 64 | b: 1.00 | c: 1.50 | a: 2.00 |" in text
    figure = Figure()
    benchmark.draw({"rows": rows()}, figure)
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[64.0, 2.0]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="would run the benchmark")
def test_without_a_gpu_it_says_so(tmp_path):
    command = [sys.executable, "-m", "bench.kernel_tiles", "--output", str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2 and "no CUDA device" in result.stderr and not (tmp_path / "out").exists()
