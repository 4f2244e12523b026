"""The turns of tests among workers."""

from __future__ import annotations

import fcntl
import threading
import time
from pathlib import Path

from alone import turn
from waiting import wait_until


def is_shut(door: Path) -> bool:
    with door.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_who_is_alone_waits_for_all_others_and_nobody_slips_in(tmp_path: Path):
    inside: list[str] = []
    seen: list[list[str]] = []
    leave = threading.Event()

    def visit(name: str, alone: bool) -> None:
        with turn(tmp_path / "run", alone):
            inside.append(name)
            seen.append(sorted(inside))
            leave.wait(30)
            inside.remove(name)

    def start(name: str, alone: bool = False) -> threading.Thread:
        thread = threading.Thread(target=visit, args=(name, alone))
        thread.start()
        return thread

    threads = [start("a"), start("b")]
    assert wait_until(lambda: len(inside) == 2)
    threads.append(start("alone", alone=True))
    assert wait_until(lambda: is_shut(tmp_path / "run.door"))
    threads.append(start("c"))
    time.sleep(0.1)
    assert sorted(inside) == ["a", "b"]
    leave.set()
    for thread in threads:
        thread.join(30)
    assert seen[1] == ["a", "b"] and ["alone"] in seen and ["c"] in seen and len(seen) == 4
