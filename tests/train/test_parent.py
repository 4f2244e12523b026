"""A rank ends with what started it; a chain of processes stands for `deepspeed`, its launcher and a rank."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tiny import ROOT

RANK = """
import pathlib, signal, sys, time
from train.parent import end_with_launcher
def stop(*_):
    pathlib.Path(sys.argv[1]).write_text("stopped")
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
end_with_launcher()
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""
STARTS = "import subprocess, sys; subprocess.run([sys.executable, '-c', *sys.argv[2:]])"


@pytest.mark.parametrize("killed", ["runner", "launcher"])
def test_a_rank_ends_with_the_deepspeed_that_started_it(tmp_path: Path, killed: str):
    """Killed with -9 it tells nobody; its launcher lives on, and ranks used to."""
    mark = tmp_path / "mark"
    launcher = [STARTS, "deepspeed.launcher.launch", RANK, str(mark)]
    command = [sys.executable, "-c", STARTS, "deepspeed", *launcher]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as runner:
        assert runner.stdout is not None and runner.stderr is not None
        assert runner.stdout.readline() == "ready\n"
        (parent,) = psutil.Process(runner.pid).children()
        (rank,) = parent.children()
        os.kill(runner.pid if killed == "runner" else parent.pid, signal.SIGKILL)
        psutil.wait_procs([rank], timeout=30)
        assert mark.read_text() == "stopped"
        assert "the launcher, process" in runner.stderr.read()
