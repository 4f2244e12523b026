"""A catalogue by processes: killed or not, by however many, the data set has the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from data_set_files import all_rows, catalog_arguments, contents, picture, rejects, write_csv
from waiting import wait_until

from dataset import parts
from train.prepare.__main__ import main

ROOT = Path(__file__).parents[3]
PART_ROWS = 64
ROWS = 3000


@pytest.fixture
def table(tmp_path):
    """One in a hundred rows has an id of long before, one in a hundred no image that can be decoded."""
    for n in range(10):
        (tmp_path / f"{n}.jpg").write_bytes(picture(n))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    rows = [[f"sku{n}", f"{n % 10}.jpg", f"Dress {n}", ("red", "blue")[n % 2], "new"] for n in range(ROWS)]
    for n in range(100, ROWS, 100):
        rows[n][0], rows[n + 1][1] = f"sku{n - 77}", "bad.jpg"
    return write_csv(tmp_path / "shop.csv", rows)


HALTED = f"""
import signal, sys, time
from dataset import parts
from train.prepare import catalog
from train.prepare.__main__ import main

def halted(*arguments):
    for number, part in enumerate(parts.cut_rows(*arguments)):
        if number == 10:
            time.sleep(60)
        yield part

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
parts.PART_ROWS, catalog.cut_rows = {PART_ROWS}, halted
sys.exit(main(sys.argv[1:]))
"""


def start(arguments: list[str]) -> subprocess.Popen:
    """In a process of its own, with parts small enough to be many, which halts among them until a signal comes."""
    return subprocess.Popen([sys.executable, "-c", HALTED, *arguments], cwd=ROOT)


def finished(output: Path) -> list[Path]:
    """The notes of the parts that are finished."""
    return list(output.with_name(f"{output.name}.partial").glob("parts/*.json"))


def written(directory: Path, notes: list[Path]) -> dict[str, int]:
    """When each training shard of these parts was written, ns."""
    shards = [f"split=train/{note.stem.removeprefix('rows-')}.parquet" for note in notes]
    return {shard: (directory / shard).stat().st_mtime_ns for shard in shards}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(table, tmp_path, monkeypatch, end):
    monkeypatch.setattr(parts, "PART_ROWS", PART_ROWS)
    assert main(catalog_arguments(table, tmp_path / "whole", "--workers", "1")) == 0
    output = tmp_path / "out"
    process = start(catalog_arguments(table, output, "--workers", "2"))
    wait_until(lambda: len(finished(output)) >= 3 or process.poll() is not None)
    process.send_signal(end)
    assert process.wait(30) == (-end if end == signal.SIGKILL else 75)
    time.sleep(0.3)  # workers of a killed process end by themselves
    before = finished(output)
    assert 3 <= len(before) < ROWS // PART_ROWS and not output.exists()
    shards = written(tmp_path / "out.partial/data", before)
    assert main(catalog_arguments(table, output, "--workers", "1")) == 0
    assert contents(output) == contents(tmp_path / "whole")
    assert written(output, before) == shards
    assert not output.with_name("out.partial").exists()


def test_duplicates_are_found_over_all_parts_and_workers_change_nothing(table, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", PART_ROWS)
    for workers in ("1", "2"):
        assert main(catalog_arguments(table, tmp_path / workers, "--workers", workers)) == 0
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    twice = {(n + 1, f"sku{n - 77}"): "DUPLICATE_ID: an earlier row has this id" for n in range(100, ROWS, 100)}
    undecodable = {(n + 2, f"sku{n + 1}") for n in range(100, ROWS, 100)}
    found = rejects(tmp_path / "1")
    assert {key: why for key, why in found.items() if key not in undecodable} == twice
    assert {found[key].partition(":")[0] for key in undecodable} == {"IMG_UNDECODABLE"}
    assert len(all_rows(tmp_path / "1")) == ROWS - len(found)
    assert all_rows(tmp_path / "1")["sku23"]["title"] == "Dress 23"
