"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores of the affinity mask, and no more than the container's CPU limit (cgroup v2) rounded up: a thread beyond
    that is stopped by the kernel for most of each period, and the others wait for it."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_LIMIT.read_text().split()
    except OSError:  # no cgroup v2, no limit of its kind
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))
