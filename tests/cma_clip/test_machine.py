"""The cores that threads are counted by, and what is said of the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cma_clip import machine


@pytest.fixture
def limit(monkeypatch, tmp_path):
    """The file in which a container's CPU limit stands; missing at first."""
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    return tmp_path / "cpu.max"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000", 6), ("200000 100000", 2), ("250000 100000", 3), ("10000 100000", 1), (None, 6)],
)
def test_a_containers_limit_counts(monkeypatch, limit, text, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    if text:
        limit.write_text(text + "\n")
    assert machine.usable_cores() == expected


def test_a_limit_above_the_affinity_mask_adds_nothing(monkeypatch, limit):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3})
    limit.write_text("800000 100000\n")
    assert machine.usable_cores() == 1


def test_without_affinity_all_cores_count(monkeypatch, limit):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert machine.usable_cores() == 5


@pytest.fixture
def told(monkeypatch, limit):
    """What py-cpuinfo says; asked once."""
    info = {"brand_raw": "Xeon 9", "flags": ["amx_bf16", "avx", "avx2"]}
    asked = []
    monkeypatch.setitem(sys.modules, "cpuinfo", SimpleNamespace(get_cpu_info=lambda: asked.append(1) or info))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    machine._cpu.cache_clear()
    yield info
    machine._cpu.cache_clear()
    assert asked == [1]


def test_the_processor_has_a_name_features_in_our_order_and_usable_cores(told, limit):
    expected = {"cpu": "Xeon 9", "cpu_features": ["avx2", "amx_bf16"], "cores": 3}
    assert machine.processor() == machine.processor() == expected
    limit.write_text("200000 100000\n")
    assert machine.processor()["cores"] == 2


def test_an_unknown_processor_has_its_architecture_as_name(told):
    told.clear()
    assert machine.processor()["cpu"] == os.uname().machine and machine.processor()["cpu_features"] == []


def test_cores_are_counted_without_py_cpuinfo():
    code = "import sys; sys.modules['cpuinfo'] = None; from cma_clip.machine import usable_cores; print(usable_cores())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(answer.stdout) >= 1


def test_this_processor_is_known():
    assert machine.processor()["cpu"] and set(machine.processor()["cpu_features"]) <= set(machine.CPU_FEATURES)


def test_the_commit_is_that_of_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert machine.commit() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init"], [*author, "commit", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *command, "-q"], check=True)
    expected = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    assert expected.startswith(machine.commit()) and len(machine.commit()) >= 7
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() is None
