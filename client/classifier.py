"""Ask running servers for the labels of products, over gRPC; with asyncio: client.aio."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

import grpc
from tritonclient.grpc import service_pb2 as messages

from client.errors import ClassifierError, ServerUnavailable
from client.protocol import MODEL, Answer, Outcome, Query, explain, request_for, request_or_error
from client.retry import Attempt, Window
from client.session import Session, check_in_flight


class Classifier(Session):
    """Connections to one or several servers; use it as a context manager. Its arguments are Session's."""

    def __enter__(self) -> Classifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return once a server answers for the model.

        Raises:
            ClassifierError: none does within `timeout_s` seconds; the message says why.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            errors = [self._not_ready(place, min(self.timeout_s, timeout_s)) for place in range(len(self.urls))]
            if None in errors:
                return
            if time.monotonic() > deadline:
                assert errors[0] is not None
                raise errors[0]
            time.sleep(0.1)

    def is_ready(self, timeout_s: float = 1.0) -> bool:
        """Whether a health endpoint says so; only an answer shows that the model works."""
        return any(self._not_ready(place, timeout_s) is None for place in range(len(self.urls)))

    def _not_ready(self, place: int, timeout_s: float) -> ClassifierError | None:
        url = self.urls[place]
        try:
            reply = self._stubs[place].ModelReady(messages.ModelReadyRequest(name=MODEL), timeout=timeout_s)
        except grpc.RpcError as failure:
            return explain(failure.code(), failure.details(), url, timeout_s)
        return None if reply.ready else ServerUnavailable("UNAVAILABLE", f"{url} answers, but {MODEL} is not ready")

    def classify(self, title: str | bytes = "", image: bytes | Path | None = None) -> Answer:
        """Classify one product; either title or image may be absent.

        Args:
            image: an encoded image (JPEG, PNG, ...) or the path of one.
        Raises:
            ClassifierError: the server refused, failed, or did not answer in time.
            OSError: the image's path cannot be read.
        """
        return self._ask(request_for(title, image))

    def _ask(self, request: messages.ModelInferRequest) -> Answer:
        following: Attempt | None = self._course.first(time.monotonic())
        while following:
            attempt = following
            time.sleep(max(0.0, attempt.not_before - time.monotonic()))
            ask = partial(self._stubs[attempt.replica].ModelInfer, request, timeout=attempt.timeout_s)
            outcome = self._outcome(ask, attempt)
            following = self._next(attempt, outcome)
        if isinstance(outcome, ClassifierError):
            raise outcome
        return outcome

    def classify_many(self, queries: Iterable[Query], in_flight: int = 32) -> Iterator[Outcome]:
        """Classify products with at most `in_flight` calls open, so that the server can batch them.

        Yields:
            one Answer or ClassifierError per product, in order; a bad product does not stop the rest, and
            one that is tried again lets the others go on, up to `in_flight` products ahead.
        """
        check_in_flight(in_flight)
        return iter(_Stream(self, queries, in_flight))

    def _outcome(self, receive: Callable[[], messages.ModelInferResponse], attempt: Attempt) -> Outcome:
        try:
            return self._answer(receive(), attempt)
        except grpc.RpcError as failure:
            return self._error(failure, attempt)


class _Stream:
    """classify_many under way: its thread sends, receives and sends again; nothing runs beside it.

    Attributes:
        sent: index of a product -> its open call.
        later: heap of (due, index, request, attempt) that wait for their time.
        done: outcomes that earlier products hold back.
    """

    def __init__(self, classifier: Classifier, queries: Iterable[Query], in_flight: int) -> None:
        self.classifier, self.queries, self.in_flight = classifier, iter(queries), in_flight
        self.window = Window(in_flight)
        self.inbox: SimpleQueue[tuple[int, messages.ModelInferRequest, Attempt]] = SimpleQueue()
        self.sent: dict[int, grpc.Future] = {}
        self.later: list[tuple[float, int, messages.ModelInferRequest, Attempt]] = []
        self.done: dict[int, Outcome] = {}
        self.taken, self.given, self.ended = 0, 0, False

    def __iter__(self) -> Iterator[Outcome]:
        try:
            while not (self.ended and self.given == self.taken):
                while not self.inbox.empty():
                    self._settle(*self.inbox.get())
                self._send_due()
                self._take_queries()
                if self.given in self.done:
                    self.given += 1
                    yield self.done.pop(self.given - 1)
                elif self.given < self.taken:
                    self._wait()
        finally:
            for call in self.sent.values():
                call.cancel()

    def _send_due(self) -> None:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now and len(self.sent) < self.window.size:
            self._send(*heapq.heappop(self.later)[1:])

    def _take_queries(self) -> None:
        while not self.ended and self.taken - self.given < self.in_flight and len(self.sent) < self.window.size:
            try:
                query = next(self.queries)
            except StopIteration:
                self.ended = True
                return
            self.taken += 1
            self._begin(self.taken - 1, request_or_error(query))

    def _begin(self, index: int, request: messages.ModelInferRequest | ClassifierError) -> None:
        if isinstance(request, ClassifierError):
            self.done[index] = request
            return
        now = time.monotonic()
        attempt = self.classifier._course.first(now)
        if attempt.not_before > now:
            heapq.heappush(self.later, (attempt.not_before, index, request, attempt))
        else:
            self._send(index, request, attempt)

    def _send(self, index: int, request: messages.ModelInferRequest, attempt: Attempt) -> None:
        stub = self.classifier._stubs[attempt.replica]
        self.sent[index] = stub.ModelInfer.future(request, timeout=attempt.timeout_s)
        self.sent[index].add_done_callback(lambda _: self.inbox.put((index, request, attempt)))

    def _wait(self) -> None:
        """Until a call ends, or until it is time to send one again and there is room for it."""
        room = len(self.sent) < self.window.size
        wait_s = max(0.0, self.later[0][0] - time.monotonic()) if self.later and room else None
        try:
            self._settle(*self.inbox.get(timeout=wait_s))
        except Empty:
            return

    def _settle(self, index: int, request: messages.ModelInferRequest, attempt: Attempt) -> None:
        outcome = self.classifier._outcome(self.sent.pop(index).result, attempt)
        following = self.classifier._next(attempt, outcome, self.window)
        if following is None:
            self.done[index] = outcome
        else:
            heapq.heappush(self.later, (following.not_before, index, request, following))
