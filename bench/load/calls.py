"""Two ways to load a server: a fixed number of callers, or a fixed rate whatever the server does.

Requests are serialised beforehand and answers are not parsed: of the machine that both share, the
generator should take little.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc

from bench.load.requests import OK, Request
from cma_clip.command import Failure

METHOD = "/inference.GRPCInferenceService/ModelInfer"
OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
CONNECT_S, TIMEOUT_S = 10.0, 10.0


class Call(NamedTuple):
    """What became of one call; times are seconds since the load began.

    Attributes:
        request: its index.
        due_s: when it should have been sent; latency counts from here, so that a stall of the server
            is charged to every call that it delayed, not to one.
        sent_s: when it was sent.
        done_s: when its answer was there.
        code: OK or gRPC's status name.
        message: what the server said of a failure.
        answer: of a watched load, what `look` made of the response.
    """

    request: int
    due_s: float
    sent_s: float
    done_s: float
    code: str
    message: str
    answer: Any = None

    @property
    def latency_s(self) -> float:
        return self.done_s - self.due_s


def closed_loop(
    url: str,
    requests: Sequence[Request],
    concurrency: int,
    *,
    seconds: float = math.inf,
    count: float = math.inf,
    timeout_s: float = TIMEOUT_S,
) -> list[Call]:
    """`concurrency` callers; each sends its next request when its last is answered.

    Args:
        requests: taken in order, again from the start where they run out.
        seconds, count: what ends the load: no request starts after `seconds` or beyond `count`.
        timeout_s: deadline of each call.
    Raises:
        ValueError: nothing ends the load.
        Failure: no server is there.
    """
    if min(seconds, count) == math.inf:
        raise ValueError("closed_loop: give seconds or count")

    async def run() -> list[Call]:
        async with _Caller(url, requests, timeout_s) as caller:
            numbers = iter(range(int(count) if count < math.inf else 1 << 62))

            async def work() -> None:
                while caller.now() < seconds and (number := next(numbers, None)) is not None:
                    await caller.call(number)

            await asyncio.gather(*(work() for _ in range(concurrency)))
            return caller.calls

    return asyncio.run(run())


def open_loop(
    url: str,
    requests: Sequence[Request],
    rate: float,
    seconds: float,
    timeout_s: float = TIMEOUT_S,
    look: Callable[[bytes], Any] | None = None,
    until: Callable[[float], bool] = lambda now_s: False,
) -> list[Call]:
    """`rate` requests a second at even distances for `seconds`, however many are unanswered.

    Args:
        look: makes of each response, serialised, what its Call keeps.
        until: asked with the seconds since the load began; True ends it early.
    Raises:
        Failure: no server is there.
    """

    async def run() -> list[Call]:
        async with _Caller(url, requests, timeout_s, look) as caller, asyncio.TaskGroup() as tasks:
            for number in range(round(rate * seconds) if seconds < math.inf else 1 << 62):
                due_s = number / rate
                if until(caller.now()):
                    break
                await asyncio.sleep(max(0.0, due_s - caller.now()))
                tasks.create_task(caller.call(number, due_s))
        return caller.calls

    return asyncio.run(run())


class _Caller:
    """One connection, and a clock that starts with it."""

    def __init__(
        self, url: str, requests: Sequence[Request], timeout_s: float, look: Callable[[bytes], Any] | None = None
    ) -> None:
        self.url, self.requests, self.timeout_s, self.look = url, requests, timeout_s, look
        self.calls: list[Call] = []

    async def __aenter__(self) -> _Caller:
        self.channel = grpc.aio.insecure_channel(self.url, options=OPTIONS)
        try:
            await asyncio.wait_for(self.channel.channel_ready(), CONNECT_S)
        except TimeoutError:
            await self.channel.close()
            raise Failure(f"no server at {self.url}") from None
        self.infer, self.start = self.channel.unary_unary(METHOD), time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    def now(self) -> float:
        return time.perf_counter() - self.start

    async def call(self, number: int, due_s: float | None = None) -> None:
        """Record what becomes of a request that was due at `due_s`, or is due now."""
        index, code, message, answer, sent_s = number % len(self.requests), OK, "", None, self.now()
        try:
            response = await self.infer(self.requests[index].payload, timeout=self.timeout_s)
            answer = self.look(response) if self.look else None
        except grpc.aio.AioRpcError as error:
            code, message = error.code().name, error.details() or ""
        self.calls.append(Call(index, sent_s if due_s is None else due_s, sent_s, self.now(), code, message, answer))
