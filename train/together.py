"""Before a stage begins: one run in an output at a time, and ranks that all see the same run."""

from __future__ import annotations

import json
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from train.ranks import AllRefuse, Ranks

LOCK = ".lock"


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """The run's directory for the run of this process; the system gives it back however the process ends.

    Raises:
        ValueError: another run is at work in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / LOCK
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{output}: {_holder(path)} is at work in it; wait for it, stop it, or take another --output"
        ) from None
    with lock:
        path.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "command": sys.argv}))
        yield


def _holder(path: Path) -> str:
    """Who wrote into the lock that it holds."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']} ({' '.join(found['command'])})"
    except (OSError, ValueError, KeyError, TypeError):  # it has not come to writing yet
        return "another run"


class View(NamedTuple):
    """What a rank found before the ranks met.

    fault: why it cannot take part, None if it can. run: what it would do, from settings to state, by name.
    """

    host: str
    fault: str | None
    run: Mapping[str, object]


def view(run: Mapping[str, object], fault: str | None = None) -> View:
    return View(socket.gethostname(), fault, run)


def compare(ranks: Ranks, mine: View, output: Path) -> None:
    """All ranks call this, and go on or are refused alike.

    Raises:
        AllRefuse: a rank cannot take part, sees another state of the run than the first one, or another directory.
    """
    first, *others = views = ranks.tell(mine)
    for rank, other in enumerate(others, 1):
        if other.fault:
            raise AllRefuse(f"rank {rank} on {other.host}: {other.fault}")
        differences = [
            f"{name}: {value} on {first.host}, {other.run.get(name)} on {other.host}"
            for name, value in first.run.items()
            if other.run.get(name) != value
        ]
        if differences:
            raise AllRefuse(
                f"rank {rank} sees another run in {output} than rank 0 ({'; '.join(differences)}); start all with one"
                " command, and put data and output on a file system that all nodes share"
            )
    blind = _blind(ranks, output)
    if blind:
        hosts = ", ".join(f"rank {rank} on {views[rank].host}" for rank in blind)
        raise AllRefuse(f"{output} of rank 0 on {first.host} is not that of {hosts}: put it where all nodes see it")


def _blind(ranks: Ranks, output: Path) -> list[int]:
    """Ranks that do not find a file which the first one has just written; nobody has asked for its name before."""
    name = ranks.tell(f".{uuid.uuid4().hex}")[0]
    mark = output / name
    try:
        if ranks.is_first:
            mark.touch()
        ranks.barrier()
        found = ranks.tell(mark.exists())
    finally:
        if ranks.is_first:
            mark.unlink(missing_ok=True)
    return [rank for rank, is_found in enumerate(found) if not is_found]
