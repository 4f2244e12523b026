"""The queue in front of slow work: it counts what has to be done, and refuses what would come too late."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serve.work import Work

FIRST_PACE = 5e-9  # seconds a unit, until some work has been done
# How fast the pace is learned: each piece of work takes this share of the weight of all before.
FORGET = 0.05
FIRST_UNITS = 20_000_000
# One piece may say no more than that the work is this many times slower than thought: a single odd image is no pace.
MOST_SURPRISE = 4.0
# Whose turn it is: a piece waits for those before it, and lets what costs far less pass, up to so many times its cost.
STRETCH = 4.0
# Pieces that are taken whatever waits, at the same time: the canary's.
MOST_URGENT = 4
POLL_S = 0.003


@dataclass(order=True)
class _Piece:
    due: float
    number: int
    run: Callable[[float], bool] = field(compare=False)
    work: Work = field(compare=False)
    urgent: bool = field(compare=False)
    came: float = field(compare=False)


class WorkQueue:
    """Threads that do work by turns, and no more of it waits than they do in `most_wait_s`.

    Nothing begins while the steps that follow have enough to do: else the work of requests that are refused later
    takes the cores from those that could be answered.

    Args:
        threads: that work; 0: somebody else calls `work_once`.
        most: pieces that wait.
        most_wait_s: seconds, by the pace of the work so far.
        most_memory: bytes for all threads together; a piece that needs more runs alone.
        held: whether the steps that follow have enough to do.
        later_s: seconds in which those steps answer so many more.
        clock: seconds, only forward.
    """

    def __init__(
        self,
        threads: int,
        most: int,
        most_wait_s: float,
        most_memory: int,
        held: Callable[[], bool] = lambda: False,
        later_s: Callable[[int], float] = lambda count: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.width, self.most, self.most_wait_s, self.most_memory = max(threads, 1), most, most_wait_s, most_memory
        self._clock, self._held, self._later_s, self._changed = clock, held, later_s, threading.Condition()
        self._waiting: list[_Piece] = []
        self._units = self._memory = self._urgent = self._number = self._running = 0
        self._learned_units, self._learned_s = float(FIRST_UNITS), FIRST_UNITS * FIRST_PACE
        self._closing = self._looking = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    @property
    def pace(self) -> float:
        """Seconds a unit takes one thread."""
        return self._learned_s / self._learned_units

    def wait_s(self) -> float:
        """How long what comes now would wait, seconds."""
        return max(self._units * self.pace / self.width, self._later_s(len(self._waiting)))

    def full(self, urgent: bool = False) -> str | None:
        """Why nothing more may come now; None where it may.

        Args:
            urgent: asks for one that does not wait behind the others; only few at a time.
        """
        with self._changed:
            if urgent:
                many = self._urgent >= MOST_URGENT
                return f"{self._urgent} urgent requests wait, at most {MOST_URGENT} may" if many else None
            if len(self._waiting) >= self.most:
                return f"{len(self._waiting)} requests wait, at most {self.most} may"
            wait_s = self.wait_s()
            many = wait_s > self.most_wait_s
            return f"work of {wait_s:.1f} s waits, at most {self.most_wait_s:g} s may" if many else None

    def is_its_turn(self, work: Work) -> bool:
        """Whether nothing holds it up and nothing that waits comes before it."""
        with self._changed:
            due = self._clock() + STRETCH * work.units * self.pace
            return not self._held() and not (self._waiting and self._waiting[0].due <= due)

    def put(self, run: Callable[[float], bool], work: Work, urgent: bool = False) -> None:
        """Take a piece of work.

        Args:
            run: does it; it is told how many seconds it waited, returns whether it did all of it, and never raises.
            urgent: before all others, and not held up by the steps that follow.
        """
        with self._changed:
            now = self._clock()
            due = float("-inf") if urgent else now + STRETCH * work.units * self.pace
            self._number += 1
            heapq.heappush(self._waiting, _Piece(due, self._number, run, work, urgent, now))
            self._units += work.units
            self._urgent += urgent
            self._changed.notify()

    def work_once(self) -> bool:
        """Do the next piece; False where none waits and none will come."""
        with self._changed:
            free_from = self._clock()
            while not self._may_begin():
                if self._closing and not self._waiting:
                    return False
                self._wait()
            piece = heapq.heappop(self._waiting)
            self._memory += piece.work.memory
            self._running += 1
        start = self._clock()
        whole = piece.run(start - piece.came)
        held_s, spent_s = start - max(free_from, piece.came), self._clock() - start
        with self._changed:
            self._learn(piece.work.units, held_s, spent_s, whole)
            self._memory -= piece.work.memory
            self._running -= 1
            self._units -= piece.work.units
            self._urgent -= piece.urgent
            self._changed.notify_all()
        return True

    def _wait(self) -> None:
        """One thread looks now and then whether the steps that follow take more; the others are told."""
        looks = bool(self._waiting) and not self._looking
        self._looking |= looks
        self._changed.wait(POLL_S if looks else None)
        if looks:
            self._looking = False
            if self._waiting:
                self._changed.notify()

    def close(self) -> None:
        """Do what waits, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _may_begin(self) -> bool:
        """The next in turn waits for its memory, and nobody passes it: a large one would wait for ever."""
        if not self._waiting:
            return False
        first = self._waiting[0]
        if self._held() and not (first.urgent or self._closing):
            return False
        return not self._running or self._memory + first.work.memory <= self.most_memory

    def _learn(self, units: int, held_s: float, spent_s: float, whole: bool) -> None:
        """What was refused or given up on the way says nothing, unless it took longer than all of it should have.

        What holds all work up is as much a part of the pace as the work.
        """
        expected_s = units * self.pace
        if whole or spent_s > expected_s:
            self._learned_units = (1 - FORGET) * self._learned_units + units
            self._learned_s = (1 - FORGET) * self._learned_s + held_s + min(spent_s, MOST_SURPRISE * expected_s)

    def _work(self) -> None:
        while self.work_once():
            pass
