"""The classifier for asyncio: the same requests, answers and retry policy as client.classifier."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as messages

from client.errors import ClassifierError
from client.protocol import Answer, Image, Outcome, Query, request_for, request_or_error
from client.retry import Attempt, Window
from client.session import Session, check_in_flight

Made = TypeVar("Made")


class AsyncClassifier(Session):
    """Connections to one or several servers, made and used within one event loop; an async context manager.

    Its arguments are Session's.
    """

    _grpc: ClassVar[ModuleType] = grpc.aio

    async def __aenter__(self) -> AsyncClassifier:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def classify(self, title: str | bytes = "", image: bytes | Path | None = None) -> Answer:
        """Classify one product; arguments and errors are those of Classifier.classify."""
        request = await _beside_the_loop(image, request_for, title, image)
        outcome = await self._ask(request, _Room(Window(1)))
        if isinstance(outcome, ClassifierError):
            raise outcome
        return outcome

    async def classify_many(self, queries: Iterable[Query], in_flight: int = 32) -> AsyncIterator[Outcome]:
        """Classify products with at most `in_flight` calls open, so that the server can batch them.

        Yields:
            as Classifier.classify_many: one outcome per product, in order.
        """
        check_in_flight(in_flight)
        room = _Room(Window(in_flight))
        tasks: deque[asyncio.Task[Outcome]] = deque()
        try:
            for query in queries:
                if len(tasks) == in_flight:
                    yield await tasks.popleft()
                tasks.append(asyncio.create_task(self._begin(query, room)))
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()

    async def _begin(self, query: Query, room: _Room) -> Outcome:
        image = None if isinstance(query, ClassifierError) else query[1]
        request = await _beside_the_loop(image, request_or_error, query)
        return request if isinstance(request, ClassifierError) else await self._ask(request, room)

    async def _ask(self, request: messages.ModelInferRequest, room: _Room) -> Outcome:
        """The outcome of a product after all its attempts."""
        following: Attempt | None = self._course.first(time.monotonic())
        while following:
            attempt = following
            await asyncio.sleep(max(0.0, attempt.not_before - time.monotonic()))
            async with room:
                outcome = await self._outcome(request, attempt)
                following = self._next(attempt, outcome, room.window)
        return outcome

    async def _outcome(self, request: messages.ModelInferRequest, attempt: Attempt) -> Outcome:
        stub = self._stubs[attempt.replica]
        try:
            return self._answer(await stub.ModelInfer(request, timeout=attempt.timeout_s), attempt)
        except grpc.RpcError as failure:
            return self._error(failure, attempt)


class _Room:
    """A place for each call that the window allows to be open; callers wait for theirs in turn."""

    def __init__(self, window: Window) -> None:
        self.window, self.open = window, 0
        self.changed = asyncio.Condition()

    async def __aenter__(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.open < self.window.size)
            self.open += 1

    async def __aexit__(self, *_: object) -> None:
        async with self.changed:
            self.open -= 1
            self.changed.notify(self.window.size)


async def _beside_the_loop(image: Image, make: Callable[..., Made], *arguments: Any) -> Made:
    """`make(*arguments)`; in a thread where an image's file must be read for it."""
    return await asyncio.to_thread(make, *arguments) if isinstance(image, Path) else make(*arguments)
