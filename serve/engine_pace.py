"""How far the later steps are: a few numbers in shared memory, from them to the step in front of all.

Triton could bound the queues of the later steps. But a step with any queue policy (a longest queue, a time limit,
priorities) is not handed its next batch when it becomes free: Triton looks again at the next request that it takes in,
and where the queue is full it takes in none, after half a second. At three times capacity that left a fifth of the
answers. (triton-inference-server/core, `PriorityQueue::SupportPrefetching` and `WaitForPayloadSlotAvailable`.) So no
step has such a policy, and the first one takes in no more than the later ones can answer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from serve.host import REGION, SHARED_MEMORY

# Who says how far it is; the first that does is believed. TensorRT's backend says nothing, so decode speaks for it.
SPEAKERS = ("engine", "decode")
# Parameter of their config.pbtxt: how many requests may be on their way to them.
MOST_AHEAD = "most_ahead"
TAKEN, BUSY, MOST, LOST_MS, SPENT_US = range(5)
STUCK_S, LOOK_S = 5.0, 1.0
# Requests that say how fast a step is, and how much slower than its best it is believed after each second.
ENOUGH, FORGET = 16, 1.05


def pace_file(step: str, folder: Path = SHARED_MEMORY) -> Path:
    """One a server and step: all its steps are its children. A killed server's leftovers are known by the name."""
    return folder / f"{REGION}cma_clip_{os.getppid()}_{step}"


class Pace:
    """Written by a step: requests taken so far, whether it works now, and for how long it has worked in all.

    Args:
        most: requests that may be on their way to it.
        lost_after_s: seconds without work after which nothing can be on its way.
    """

    def __init__(self, most: int, lost_after_s: float, path: Path) -> None:
        self.path = path
        new = path.with_name(f"{path.name}.new")
        new.write_bytes(np.array([0, 0, most, round(1000 * lost_after_s), 0], np.int64).tobytes())
        new.replace(path)  # a killed server's of the same process id may still be mapped
        self._numbers = np.memmap(path, np.int64, "r+")
        self._inode = path.stat().st_ino

    @contextmanager
    def working(self, count: int) -> Iterator[None]:
        """Within it, the step works on so many requests."""
        began = time.monotonic()
        self._numbers[TAKEN] += count
        self._numbers[BUSY] = 1
        try:
            yield
        finally:
            self._numbers[BUSY] = 0
            self._numbers[SPENT_US] += round(1e6 * (time.monotonic() - began))

    def close(self) -> None:
        """The file goes, but for that of the same step loaded anew, which begins before this one ends."""
        if self.path.is_file() and self.path.stat().st_ino == self._inode:
            self.path.unlink()


class Ahead:
    """Kept by the first step: requests that it let go and the step with a Pace has not taken.

    Some are lost on the way: their callers have gone. So where that step has had nothing to do for a while, or does not
    move for five seconds, none is ahead. Where nobody says how far it is, nothing is held up.

    Args:
        paths: of Paces; the first that exists counts, and it may come later.
        clock: seconds, only forward.
    """

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self.paths, self._clock = paths, clock
        self._numbers: np.ndarray | None = None
        self._file: tuple[Path, int] | None = None
        self._sent = self._seen = 0
        self._pace_s, self._measured = math.inf, (0, 0)  # seconds a request; taken and spent when it was measured
        self._looked = self._moved = self._worked = float("-inf")

    def add(self, count: int = 1) -> None:
        self._sent += count

    def wait_s(self, count: int) -> float:
        """How long `count` more requests would wait for their answers, seconds; 0 until that is known."""
        if self._numbers is None or self._pace_s == math.inf:
            return 0.0
        return (count + max(0, self._sent - int(self._numbers[TAKEN]))) * self._pace_s

    def is_full(self) -> bool:
        """Whether the later steps have enough to do. Never blocks."""
        now, numbers = self._clock(), self._open()
        if numbers is None:
            return False
        taken = int(numbers[TAKEN])
        self._sent = max(self._sent, taken)  # others may call that step by its name
        if taken != self._seen:
            self._seen, self._moved = taken, now
        if numbers[BUSY]:
            self._worked = now
        if self._sent - taken < int(numbers[MOST]):
            return False
        if now - max(self._worked, self._moved) > numbers[LOST_MS] / 1000 or now - self._moved > STUCK_S:
            self._sent, self._moved = taken, now
            return False
        return True

    def _open(self) -> np.ndarray | None:
        """Looks now and then which there is, or whether it is another one: a server's steps start in any order."""
        if self._clock() - self._looked > LOOK_S:
            self._looked = self._clock()
            path = next((path for path in self.paths if path.is_file()), None)
            file = None if path is None else (path, path.stat().st_ino)
            if file != self._file:
                self._file, self._numbers = file, None if path is None else np.memmap(path, np.int64, "r")
                self._sent = self._seen = int(self._numbers[TAKEN]) if self._numbers is not None else 0
                self._moved = self._looked
                self._pace_s, self._measured = math.inf, (self._seen, 0)
            self._measure()
        return self._numbers

    def _measure(self) -> None:
        """The best pace so far, forgotten slowly: a step that takes one at a time could take more."""
        if self._numbers is None or int(self._numbers[TAKEN]) < self._measured[0] + ENOUGH:
            return
        now = int(self._numbers[TAKEN]), int(self._numbers[SPENT_US])
        pace_s = 1e-6 * (now[1] - self._measured[1]) / (now[0] - self._measured[0])
        self._pace_s, self._measured = min(FORGET * self._pace_s, pace_s), now
