"""What a figure was measured on, and how many cores this process may use. No torch here."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def processor() -> dict[str, Any]:
    """The CPU's name, those of CPU_FEATURES that it has, and the cores that this process may use.

    The first call asks py-cpuinfo, which takes about a second.
    """
    name, flags = _cpu()
    return {
        "cpu": name,
        "cpu_features": [feature for feature in CPU_FEATURES if feature in flags],
        "cores": usable_cores(),
    }


def usable_cores() -> int:
    """Cores of the affinity mask, and no more than the container's CPU limit (cgroup v2) rounded up: a thread beyond
    that is stopped by the kernel for most of each period, and the others wait for it. Neither `os` nor psutil knows
    that limit.
    """
    # macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_LIMIT.read_text().split()
    except OSError:  # no cgroup v2, no limit of its kind
        return cores
    return cores if quota == "max" else max(1, min(cores, -(-int(quota) // int(period))))


def commit() -> str | None:
    """The commit of the checkout in the working directory; None outside one, and where there is no git."""
    if shutil.which("git") is None:
        return None
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


@functools.cache
def _cpu() -> tuple[str, frozenset[str]]:
    """Name and flags."""
    import cpuinfo  # here, because the server's environment counts its cores without it

    info = cpuinfo.get_cpu_info()
    return info.get("brand_raw", platform.machine()), frozenset(info.get("flags", ()))
