"""The file in which verdicts on the kernels outlive a process (kernels.choice)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kernels import choice
from kernels.choice import VERDICTS, Verdict, keep, read

FASTER, SLOWER = (Verdict(kernels, "1 ms") for kernels in ("faster", "slower"))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_file_lies_in_the_cache_directory(monkeypatch, tmp_path):
    assert choice.file() == tmp_path / "cma-clip/kernels.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert str(choice.file()) == "/home/me/.cache/cma-clip/kernels.json"


def test_what_is_kept_is_read_by_others():
    assert read() == {}
    assert keep("GPU", 8, FASTER) == FASTER and keep("GPU", 80, SLOWER) == SLOWER
    assert read() == {"GPU": {8: FASTER, 80: SLOWER}}


def test_the_first_to_write_wins():
    keep("GPU", 8, SLOWER)
    assert keep("GPU", 8, FASTER) == SLOWER and read() == {"GPU": {8: SLOWER}}


@pytest.mark.parametrize(
    "content",
    ["", '{"GPU": {"8": ', '["another\'s"]', '{"GPU": {"8": ["fine", ""]}}', '{"verdicts": {}, "GPU": {"any": 1}}'],
)
def test_a_damaged_or_foreign_file_is_an_empty_one_and_is_replaced(content):
    choice.file().parent.mkdir()
    choice.file().write_text(content)
    assert read() == {} and keep("GPU", 8, FASTER) == FASTER
    assert read() == {"GPU": {8: FASTER}}


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "cma-clip").write_text("a file where the directory should be")
    assert keep("GPU", 8, FASTER) == FASTER and read() == {}


def test_processes_that_write_at_once_leave_a_whole_file():
    code = """
import sys
from kernels.choice import Verdict, keep
for n in range(40):
    assert keep(f"key {n}", 8, Verdict(sys.argv[1], str(n))).reason == str(n)
"""
    running = [subprocess.Popen([sys.executable, "-c", code, kernels]) for kernels in ("faster", "slower", "wrong")]
    assert [process.wait() for process in running] == [0, 0, 0]
    found = VERDICTS.validate_json(choice.file().read_bytes())
    assert found["key 39"][8].reason == "39" and set(found) <= {f"key {n}" for n in range(40)}
    assert list(choice.file().parent.iterdir()) == [choice.file()]
