"""What the fuzzers share."""

from __future__ import annotations

import time
from collections.abc import Callable


def in_time(outcome: Callable[[], str], most_seconds: float, tries: int) -> str:
    """What `outcome` says, after `too long: ` where each of so many tries took more of this thread's CPU time.

    What else the machine does, and the garbage collector, only add to one of them.
    """
    for _ in range(tries):
        start = time.thread_time()
        found = outcome()
        if time.thread_time() - start <= most_seconds:
            return found
    return f"too long: {found}"
