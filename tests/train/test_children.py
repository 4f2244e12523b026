"""Commands as children: their last line becomes the error, and none outlives a parent that was killed with -9."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tiny import ROOT, environment
from waiting import wait_until

from cma_clip.command import Failure, NoMemory
from train.children import Children

# Started by `python -m`, as our commands are; the program of a child, which starts another, is in WORKS.
STARTS = """
import sys
from pathlib import Path
from train.children import Children
Children().work("sleep", [sys.argv[1]], Path(sys.argv[2]), env={"PYTHONPATH": sys.argv[3]})
"""
WORKS = "import subprocess; subprocess.run(['sleep', '600'])"
FAILS = "import sys; print('error: ' + sys.argv[1], file=sys.stderr); sys.exit(int(sys.argv[2]))"


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text)
    return name


def test_a_child_and_what_it_started_end_with_a_parent_that_is_killed(tmp_path: Path):
    words = [sys.executable, "-c", STARTS, module(tmp_path, "works", WORKS), str(tmp_path / "log"), str(tmp_path)]
    parent = subprocess.Popen(words, cwd=ROOT, env=environment())
    process = psutil.Process(parent.pid)
    wait_until(lambda: len(process.children(recursive=True)) == 2, 60)
    begun = process.children(recursive=True)
    parent.kill()
    parent.wait()
    _, left = psutil.wait_procs(begun, timeout=20)
    assert not left
    assert f"process {parent.pid}, which started this one, has gone" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("code", "kind"), [(1, Failure), (2, ValueError), (71, NoMemory)])
def test_a_childs_last_line_says_why_it_failed(tmp_path: Path, code: int, kind: type[Exception]):
    words = [module(tmp_path, "fails", FAILS), "no such thing", str(code)]
    with pytest.raises(kind) as raised:
        Children().work("prepare", words, tmp_path / "log", env={"PYTHONPATH": str(tmp_path)})
    assert type(raised.value) is kind and str(raised.value) == f"prepare: no such thing (all of it: {tmp_path}/log)"
