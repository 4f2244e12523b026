"""What a call costs: this thread's CPU time, so that neither other threads nor a loaded machine count."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable


def costs_less_than(seconds: float, call: Callable[[], object]) -> bool:
    """Whether one of three runs of `call` takes less: a machine's noise only adds, and a fault does so every time."""
    return any(_cpu_seconds(call) < seconds for _ in range(3))


def _cpu_seconds(call: Callable[[], object]) -> float:
    gc.disable()  # a collection of what a whole run of tests has left behind takes a second by itself
    try:
        started = time.thread_time()
        call()
        return time.thread_time() - started
    finally:
        gc.enable()
