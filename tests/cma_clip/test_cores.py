"""The cores that engine and decoder threads are counted by."""

from __future__ import annotations

import os

import pytest

from cma_clip import cores


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 6), ("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1), (None, 6)],
)
def test_a_containers_limit_counts(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    monkeypatch.setattr(cores, "CPU_LIMIT", tmp_path / "cpu.max")
    if limit:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    assert cores.usable_cores() == expected


def test_a_limit_above_the_affinity_mask_adds_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    monkeypatch.setattr(cores, "CPU_LIMIT", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    assert cores.usable_cores() == 1
