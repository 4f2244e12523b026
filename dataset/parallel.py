"""Work on several cores in the order of the items, never far ahead of the reader."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], pending: int
) -> Generator[Result]:
    """Results in the order of `items`, with at most `pending` of them in memory.

    The executor is shut down at the end; a reader that stops early closes the generator.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= pending:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def process_map(
    function: Callable[[State, Item], Result], state: State, items: Iterable[Item], workers: int
) -> Generator[Result]:
    """`function(state, item)` of every item, in order, by as many processes; each is sent the state once.

    One worker is this process itself. To close the generator waits for what is being made.

    Raises:
        ChildProcessError: a process died.
    """
    if workers == 1:
        yield from (function(state, item) for item in items)
        return
    # Spawned, not forked: a fork copies the locks of Arrow's threads and HDF5's open files as they stand.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(state,))
    try:
        yield from ordered_map(pool, partial(_in_worker, function), items, pending=2 * workers)
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process died, perhaps for lack of memory; run the command again, with fewer --workers"
        ) from None


_state: Any


def _start_worker(state: object) -> None:
    """Keep the state in the process; Ctrl-C is the parent's to answer."""
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _state = state


def _end_with_parent() -> None:
    """A worker must not write on beside the next run when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _in_worker(function: Callable[[Any, Item], Result], item: Item) -> Result:
    return function(_state, item)
