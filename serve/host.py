"""What this machine offers a server: free ports, shared memory, GPUs, TensorRT."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 2**30  # bytes
REGION = "triton_python_backend_shm_region_"


def check_port(service: str, address: str, port: int) -> None:
    """Nobody listens there.

    Args:
        service: `http`, `grpc` or `metrics`.
    Raises:
        ValueError: somebody does, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, port), family=family).close()
    except OSError as error:
        cure = f"stop what listens there or pass --{service}-port=N"
        raise ValueError(f"port {port} ({service}): {error.strerror}; {cure}") from None


def little_shared_memory(folder: Path = SHARED_MEMORY) -> str | None:
    """A warning where less than 1 GiB is free. Images and tensors go from step to step through it."""
    free = psutil.disk_usage(str(folder)).free
    if free >= MIN_SHARED_MEMORY:
        return None
    cure = "docker run --shm-size=1g, or in Kubernetes an emptyDir of medium Memory"
    return f"{folder} has {free // 2**20} MiB free, less than 1 GiB: large images may fail; {cure}"


def remove_stale_regions(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the shared memory of this user's servers that were killed; returns the names.

    The python backend removes its regions as it stops, and a killed one cannot. A live server's are mapped.
    """
    own = [path for path in folder.glob(f"{REGION}*") if path.stat().st_uid == os.geteuid()]
    mapped = _mapped_files() if own else set()
    stale = [path for path in own if str(path) not in mapped]
    for path in stale:
        path.unlink(missing_ok=True)
    return [path.name for path in stale]


def _mapped_files() -> set[str]:
    """Paths that some process maps, of all that this user may look at, its own among them."""
    found: set[str] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended, or is another user's, who cannot have mapped a file of ours
            found |= {region.path for region in process.memory_maps()}
    return found


def tensorrt_version(library: str | None = None) -> str:
    """Of the TensorRT that the server would load, such as 10.14.1.48; `none` without one.

    Args:
        library: path of libnvinfer.so; None looks where the system's linker does.
    """
    library = library or ctypes.util.find_library("nvinfer")
    if library is None:
        return "none"
    loaded = ctypes.CDLL(library)
    return ".".join(str(loaded[f"getInferLib{part}Version"]()) for part in ("Major", "Minor", "Patch", "Build"))


def compute_capabilities() -> list[str]:
    """Of this machine's GPUs, such as 9.0; empty without a GPU or its driver."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return []
    return result.stdout.split() if result.returncode == 0 else []
