"""Memory, file handles, threads and shared memory of a server and its child processes, over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Watch:
    """Samples so far, in `samples`; `fault` says why there are no more."""

    def __init__(self, pid: int) -> None:
        self.pid, self.samples, self.fault = pid, [look(pid)], ""
        self.start = time.monotonic()
        self._stop = threading.Event()

    def run(self, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            try:
                self.samples.append(look(self.pid, time.monotonic() - self.start))
            except ValueError as fault:
                self.fault = str(fault)
                return

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def watching(pid: int, interval_s: float = 1.0) -> Iterator[Watch]:
    """Look at a process tree every `interval_s` seconds while the block runs.

    Raises:
        ValueError: there is no such process at the start.
    """
    watch = Watch(pid)
    thread = threading.Thread(target=watch.run, args=(interval_s,), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
