"""How far the engine is: a few numbers in shared memory, from the engine's python step to the steps before it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from serve.host import REGION, SHARED_MEMORY

TAKEN, BUSY, MOST = range(3)
IDLE_S, STUCK_S, LOOK_S = 0.02, 5.0, 1.0


def pace_file(folder: Path = SHARED_MEMORY) -> Path:
    """One a server: all its steps are its children. The name is one that a killed server's leftovers are known by."""
    return folder / f"{REGION}cma_clip_{os.getppid()}"


class EnginePace:
    """Written by the engine: requests taken so far, whether it computes now, and how many may wait for it."""

    def __init__(self, most: int, path: Path) -> None:
        self.path = path
        new = path.with_name(f"{path.name}.new")
        new.write_bytes(np.array([0, 0, most], np.int64).tobytes())
        new.replace(path)  # a killed server's of the same process id may still be mapped
        self._numbers = np.memmap(path, np.int64, "r+")

    def begin(self, count: int) -> None:
        self._numbers[TAKEN] += count
        self._numbers[BUSY] = 1

    def end(self) -> None:
        self._numbers[BUSY] = 0

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


class Ahead:
    """Kept by a step before the engine: requests that it let go and the engine has not taken.

    Some are lost on the way (a caller has gone, a queue refused them). So where an engine has nothing to do, or does
    not move for five seconds, none is ahead. An engine on a GPU says nothing, and never holds up.

    Args:
        path: EnginePace's; it may come later.
        clock: seconds, only forward.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._numbers: np.ndarray | None = None
        self._sent = self._seen = self._inode = 0
        self._looked = self._moved = self._worked = float("-inf")

    def add(self, count: int = 1) -> None:
        self._sent += count

    def is_full(self) -> bool:
        """Whether the engine has enough to do. Never blocks."""
        now, numbers = self._clock(), self._open()
        if numbers is None:
            return False
        taken = int(numbers[TAKEN])
        if taken != self._seen:
            self._seen, self._moved = taken, now
        if numbers[BUSY]:
            self._worked = now
        if self._sent - taken < int(numbers[MOST]):
            return False
        if now - max(self._worked, self._moved) > IDLE_S or now - self._moved > STUCK_S:
            self._sent, self._moved = taken, now
            return False
        return True

    def _open(self) -> np.ndarray | None:
        """Looks now and then whether there is one, or another one: the steps of a server start in any order."""
        if self._clock() - self._looked > LOOK_S:
            self._looked = self._clock()
            inode = self.path.stat().st_ino if self.path.is_file() else 0
            if inode != self._inode:
                self._inode, self._numbers = inode, np.memmap(self.path, np.int64, "r") if inode else None
                self._sent = self._seen = int(self._numbers[TAKEN]) if self._numbers is not None else 0
        return self._numbers
