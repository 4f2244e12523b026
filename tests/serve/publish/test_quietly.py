"""A step of a published set: at a low priority while it loads, at the usual one when it answers, threads too."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from serve.publish.build import QUIETLY

STEP = """
import os, threading
seen = [os.getpriority(os.PRIO_PROCESS, 0)]
class TritonPythonModel:
    name = "step"
    def initialize(self, args):
        seen.append(os.getpriority(os.PRIO_PROCESS, 0))
        self.thread, self.end = None, threading.Event()
        self.thread = threading.Thread(target=self.end.wait)
        self.thread.start()
"""
STUB = """
import os, resource
if another_user:
    os.geteuid = lambda: 1000
    resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
import quietly
model = quietly.TritonPythonModel()
model.initialize({})
after = [os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir("/proc/self/task")]
model.end.set()
print(quietly._step.seen, after, model.name)
"""


def said(folder: Path, another_user: bool) -> str:
    shutil.copy(QUIETLY, folder)
    (folder / "decode_step.py").write_text(STEP)
    command = [sys.executable, "-c", f"another_user = {another_user}\n{STUB}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may surely take a priority back")
def test_low_while_it_loads_and_usual_after(tmp_path: Path):
    assert said(tmp_path, another_user=False) == "[10, 10] [0, 0] step"


def test_who_may_not_take_it_back_keeps_it(tmp_path: Path):
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert said(tmp_path, another_user=True) == f"[{before}, {before}] [{before}, {before}] step"
