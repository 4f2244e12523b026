"""What a figure was measured on. No torch here."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")


def processor() -> dict[str, Any]:
    """The CPU's name, those of CPU_FEATURES that it has, and the cores that this process may use."""
    info = _cpu_info()
    return {
        "cpu": info.get("model name", platform.machine()),
        "cpu_features": [feature for feature in CPU_FEATURES if feature in info.get("flags", "").split()],
        "cores": len(os.sched_getaffinity(0)),
    }


def commit() -> str | None:
    """The commit of the checkout in the working directory; None outside one."""
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None


def _cpu_info() -> dict[str, str]:
    """The first core's part of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
