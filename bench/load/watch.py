"""Memory, file handles, threads and shared memory of a server and its child processes, over time."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil


class Sample(NamedTuple):
    """One look at a process tree.

    Attributes:
        at_s: seconds since the watch began.
        rss: resident bytes, summed; memory that processes share counts in each.
        shm: bytes of the mapped files of /dev/shm, each once.
    """

    at_s: float
    processes: tuple[int, ...]
    rss: int
    fds: int
    threads: int
    shm: int


def look(pid: int, at_s: float = 0.0) -> Sample:
    """The process tree under `pid` now.

    Raises:
        ValueError: there is no such process, or it may not be looked at.
    """
    processes = tree(pid)
    rss = fds = threads = 0
    regions: dict[str, int] = {}
    for process in processes:
        try:
            rss += process.memory_info().rss
            threads += process.num_threads()
            fds += process.num_fds()
            regions |= _shared(process.pid)
        except (psutil.AccessDenied, PermissionError):
            fault = f"process {process.pid} belongs to another user: watch it as that user or as root"
            raise ValueError(fault) from None
        except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):  # it ended a moment ago
            continue
    return Sample(at_s, tuple(process.pid for process in processes), rss, fds, threads, sum(regions.values()))


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it, ascending; without those that ended and that nobody has asked after yet.

    Raises:
        ValueError: there is no such process.
    """
    try:
        root = psutil.Process(pid)
        found = [process for process in (root, *root.children(recursive=True)) if _runs(process)]
    except psutil.NoSuchProcess:
        found = []
    if pid not in [process.pid for process in found]:
        raise ValueError(f"there is no process {pid}")
    return sorted(found, key=lambda process: process.pid)


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def _shared(pid: int) -> dict[str, int]:
    """Inode -> mapped bytes of the files of /dev/shm that a process maps.

    psutil would read smaps, for which the kernel walks all of the server's pages.
    """
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if " /dev/shm/" in line:
            addresses, _, _, _, inode, *_ = line.split()
            start, end = (int(address, 16) for address in addresses.split("-"))
            sizes[inode] = sizes.get(inode, 0) + end - start
    return sizes


class Watch(threading.Thread):
    """Looks at a process tree every `interval_s` seconds while its block runs.

    Attributes:
        samples: so far, the first from before the block.
        fault: why there are no more.
    Raises:
        ValueError: there is no such process at the start.
    """

    def __init__(self, pid: int, interval_s: float = 1.0) -> None:
        super().__init__(daemon=True)
        self.pid, self.interval_s, self.over = pid, interval_s, threading.Event()
        self.samples, self.fault = [look(pid)], ""

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()

    def run(self) -> None:
        start = time.monotonic()
        while not self.over.wait(self.interval_s):
            try:
                self.samples.append(look(self.pid, time.monotonic() - start))
            except ValueError as fault:
                self.fault = str(fault)
                return
