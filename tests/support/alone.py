"""With several workers, tests marked `alone` (claims about time or load) run while no other worker runs a test."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(place: Path, alone: bool) -> Iterator[None]:
    """One test's turn. Who wants to be alone keeps the door shut until the others have left, so nobody slips in.

    Args:
        place: the beginning of two files' names, the same for all workers.
    """
    with open(f"{place}.door", "w") as door, open(f"{place}.room", "w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # closing would not do where a forked process has the file as well
