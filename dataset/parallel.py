"""Work on several cores in the order of the items, never far ahead of the reader."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

State = TypeVar("State")
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def ordered_map(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], pending: int
) -> Iterator[Iterator[Result]]:
    """Within it, results in the order of `items`, with at most `pending` of them in memory.

    At its end the executor is shut down. That is a `with` and no generator's own end: the garbage collector may end
    a generator in any thread, in one of the executor's too, which then waits for itself for ever.
    """
    try:
        yield _in_order(executor, function, items, pending)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], pending: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) >= pending:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def process_map(
    function: Callable[[State, Item], Result], state: State, items: Iterable[Item], workers: int
) -> Iterator[Iterator[Result]]:
    """Within it, `function(state, item)` of every item, in order, by as many processes; each is sent the state once.

    One worker is this process itself. At its end it waits for what is being made.

    Raises:
        ChildProcessError: a process died.
    """
    if workers == 1:
        yield (function(state, item) for item in items)
        return
    # Spawned, not forked: a fork copies the locks of Arrow's threads and HDF5's open files as they stand.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(state,))
    try:
        with ordered_map(pool, partial(_in_worker, function), items, pending=2 * workers) as results:
            yield results
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
