"""The file in which verdicts on the kernels outlive a process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernels import verdicts
from kernels.verdicts import Verdict, Verdicts

FASTER, SLOWER = (Verdict(kernels=kernels, reason="1 ms") for kernels in ("faster", "slower"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_file_lies_in_the_cache_directory(monkeypatch, tmp_path):
    assert verdicts.file() == tmp_path / "cma-clip/kernels.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(verdicts.file()) == "/home/me/.cache/cma-clip/kernels.json"


def test_what_is_kept_is_recalled_by_others():
    assert Verdicts().recall("GPU, batch 8") is None
    assert Verdicts().keep("GPU, batch 8", FASTER) == FASTER
    assert Verdicts().recall("GPU, batch 8") == FASTER and Verdicts().recall("GPU, batch 80") is None


def test_the_first_to_write_wins():
    Verdicts().keep("key", SLOWER)
    second = Verdicts()
    assert second.keep("key", FASTER) == SLOWER and second.recall("key") == SLOWER


def test_of_several_the_worst_is_recalled():
    kept = Verdicts()
    kept.keep("GPU, batch 8", FASTER)
    assert kept.recall("GPU, batch ", prefix=True) == FASTER
    kept.keep("GPU, batch 64", SLOWER)
    kept.keep("another, batch 8", SLOWER)
    assert kept.recall("GPU, batch ", prefix=True) == SLOWER and kept.recall("GPU, batch ") is None


@pytest.mark.parametrize(
    "content",
    ["", '{"verdicts": {"key": ', '["another\'s"]', '{"verdicts": {"key": {"kernels": "fine", "reason": ""}}}'],
)
def test_a_damaged_or_foreign_file_is_an_empty_one_and_is_replaced(content):
    verdicts.file().parent.mkdir()
    verdicts.file().write_text(content)
    assert Verdicts().recall("key") is None and Verdicts().keep("key", FASTER) == FASTER
    assert Verdicts().recall("key") == FASTER


def test_where_nothing_can_be_written_the_process_remembers(tmp_path):
    (tmp_path / "cma-clip").write_text("a file where the directory should be")
    kept = Verdicts()
    assert kept.keep("key", FASTER) == FASTER and kept.recall("key") == FASTER
    assert Verdicts().recall("key") is None


def test_processes_that_write_at_once_leave_a_whole_file_and_each_has_one_verdict():
    code = """
import sys
from kernels.verdicts import Verdict, Verdicts
kept = Verdicts()
for n in range(40):
    mine = Verdict(kernels=sys.argv[1], reason=str(n))
    found = kept.keep(f"key {n}", mine)
    assert found.reason == str(n) and kept.recall(f"key {n}") == found
"""
    running = [subprocess.Popen([sys.executable, "-c", code, kernels]) for kernels in ("faster", "slower", "wrong")]
    assert [process.wait() for process in running] == [0, 0, 0]
    found = Verdicts.model_validate_json(verdicts.file().read_text()).verdicts
    assert found["key 39"].reason == "39" and set(found) <= {f"key {n}" for n in range(40)}
    assert list(verdicts.file().parent.iterdir()) == [verdicts.file()]
