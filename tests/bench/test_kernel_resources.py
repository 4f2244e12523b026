"""What the compiled kernels need, known without a GPU; in processes of their own, outside the interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

from bench import kernel_resources

ROOT = Path(__file__).parents[2]


def run(*command: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200
    )


@pytest.fixture(scope="module")
def needs() -> list[kernel_resources.Needs]:
    """Every kernel, dtype and tile, compiled for every generation of GPU."""
    result = run("-m", "bench.kernel_resources", "--json")
    assert result.returncode in (0, 1), result.stderr[-2000:]
    return [kernel_resources.Needs(**need) for need in json.loads(result.stdout)]


def test_every_dtype_and_tile_compiles_for_every_generation_and_hardly_spills(needs):
    assert {need.arch for need in needs} == {80, 86, 89, 90, 100, 120}
    for arch in kernel_resources.SHARED_MEMORY:
        kernels = {(need.kernel, need.dtype) for need in needs if need.arch == arch}
        assert len(kernels) == 3 * 4, arch
    # The fastest tile on an H200 spills a little, and with older compilers a few more do (kernels/BENCHMARKS.md).
    tolerated = 16 if Version(version("triton")) >= Version("3.9") else 104
    assert [need for need in needs if need.stack > tolerated] == []


def test_shared_memory_fits_the_smallest_gpu_of_each_generation(needs):
    assert [need for need in needs if need.shared > kernel_resources.SHARED_MEMORY[need.arch]] == []
    assert all(need.shared > 0 for need in needs)


def test_only_float32_does_without_the_matrix_units(needs):
    assert {need.dtype for need in needs if need.unit == "none"} == {"float32"}
    large = {need.unit for need in needs if need.arch == 90 and need.dtype == "bfloat16"}
    assert "wgmma.mma" in large


def test_a_kernel_that_spills_or_wants_too_much_memory_does_not_fit():
    fitting = kernel_resources.Needs("kernel", "float32", "", 86, 255, 0, 99 << 10, "none")
    assert fitting.fits
    for field, value in (("stack", 8), ("shared", (99 << 10) + 1)):
        assert not kernel_resources.Needs(**{**vars(fitting), field: value}).fits


def test_the_table_shows_the_most_that_any_tile_needs():
    tiles = [kernel_resources.Needs("_a_kernel", "tf32", tile, arch, registers, stack, registers << 10, "none")
             for arch in kernel_resources.SHARED_MEMORY
             for tile, registers, stack in (("16", 60, 0), ("64", 90, 8 if arch == 90 else 0))]  # fmt: skip
    head, _, row = kernel_resources.table(tiles).splitlines()
    assert head == "| kernel | dtype | tiles | sm_80 | sm_86 | sm_89 | sm_90 | sm_100 | sm_120 |"
    most = "90 / 90 KiB"
    assert row == f"| a | tf32 | 2 | {most} | {most} | {most} | {most} **stack 8** | {most} | {most} |"


def test_the_interpreter_is_refused_in_one_line():
    result = run("-m", "bench.kernel_resources", "--json", TRITON_INTERPRET="1")
    assert result.returncode == 2 and "TRITON_INTERPRET is set" in result.stderr.splitlines()[-1]
