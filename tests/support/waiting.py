"""Waiting for a condition instead of a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], most_s: float = 60.0) -> bool:
    """Look every few milliseconds; whether it came true. A loaded machine takes longer, a sound one not as long."""
    deadline = time.monotonic() + most_s
    while not (holds := bool(condition())) and time.monotonic() < deadline:
        time.sleep(0.005)
    return holds
