"""A rank ends with the launcher that started it: killed with -9, that can tell nobody."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil

from cma_clip.command import EXIT_STOPPED

LOOK_EVERY_S = 1.0
# For the micro-batch under way and a checkpoint; a rank that waits for one that has gone would never come to it.
GRACE_S = 60.0


def end_with_launcher() -> None:
    """From now on this rank stops, as at SIGTERM, once a process that started it has gone."""
    watched = launchers()
    threading.Thread(target=_watch, args=(watched,), name="launcher", daemon=True).start()


def launchers() -> list[psutil.Process]:
    """The parent; where it is DeepSpeed's launcher, also its runner: the `deepspeed` that somebody typed."""
    parent = psutil.Process().parent()
    if parent is None:
        return []
    try:
        runner = parent.parent()
        if "deepspeed.launcher.launch" in parent.cmdline() and runner and _is_python(runner):
            return [parent, runner]
    except psutil.Error:  # it is another user's, or has just gone
        pass
    return [parent]


def _is_python(process: psutil.Process) -> bool:
    """Not a shell: on the other nodes of several one starts the launcher, and may leave it behind."""
    return Path(process.exe()).name.startswith("python")


def _watch(processes: list[psutil.Process]) -> None:
    while not (gone := [process for process in processes if _has_gone(process)]):
        time.sleep(LOOK_EVERY_S)
    print(f"the launcher, process {gone[0].pid}, has gone: stopping", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(EXIT_STOPPED)


def _has_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
