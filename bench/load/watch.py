"""Memory, file handles, threads and shared memory of a server and its child processes, over time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


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
        folder = PROC / str(process)
        try:
            rss += int((folder / "statm").read_text().split()[1]) * PAGE
            threads += len(list((folder / "task").iterdir()))
            fds += len(list((folder / "fd").iterdir()))
            regions |= _shared(folder)
        except PermissionError:
            raise ValueError(f"process {process} belongs to another user: watch it as that user or as root") from None
        except (FileNotFoundError, ProcessLookupError):  # it ended a moment ago; `tree` misses it next time
            continue
    return Sample(at_s, processes, rss, fds, threads, sum(regions.values()))


def tree(pid: int) -> tuple[int, ...]:
    """The process and all below it, ascending.

    Raises:
        ValueError: there is no such process.
    """
    parents = {}
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    if pid not in parents:
        raise ValueError(f"there is no process {pid}")
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found and child not in found}:
        found |= more
    return tuple(sorted(found))


def _shared(folder: Path) -> dict[str, int]:
    """Inode -> mapped bytes of the files of /dev/shm that a process maps."""
    sizes: dict[str, int] = {}
    for line in (folder / "maps").read_text().splitlines():
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
