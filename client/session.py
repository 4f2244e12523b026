"""What the blocking and the asyncio classifier share: which servers, what to do next, which label set."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from client.errors import ClassifierError, LabelSetChanged, ServerFailed
from client.protocol import CHANNEL, MODEL, Outcome, answer_of, explain
from client.retry import Attempt, Course, Window, rule_for


class RpcFailure(Protocol):
    """What grpc raises, blocking or asyncio."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...


@dataclass(frozen=True)
class Tls:
    """PEM files: the authority behind the servers' certificates, and our own certificate where they ask for one."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError where a file cannot be read."""
        key, certificate = (path.read_bytes() if path else None for path in (self.key, self.certificate))
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, certificate)


class Session:
    """The servers that a classifier may ask, and what their answers have taught it.

    Args:
        url: host:port of a server's gRPC endpoint, or of several replicas with commas between.
        timeout_s: deadline of a product's first attempt, seconds; after a missed one comes one more with
            twice as long, where retry_for_s is longer than timeout_s.
        retry_for_s: no attempt begins later than this after the product's first; 0: one attempt only.
        expect_label_set: refuse answers from any other label set (12 hex digits, Answer.label_set).
        tls: None sends titles and images unencrypted.
    Raises:
        ValueError: an argument makes no sense.
        OSError: a file of tls cannot be read.
    """

    _grpc: ClassVar[ModuleType] = grpc

    def __init__(
        self,
        url: str = "localhost:8001",
        timeout_s: float = 10.0,
        retry_for_s: float = 0.0,
        expect_label_set: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.url, self.urls = url, [part.strip() for part in url.split(",")]
        if not all(self.urls):
            raise ValueError(f"url is {url!r}, expected host:port, or several with commas between")
        self.timeout_s, self.retry_for_s = timeout_s, retry_for_s
        self.expect_label_set = expect_label_set
        self._course = Course(len(self.urls), timeout_s, retry_for_s)
        credentials = tls.credentials() if tls else None
        self._channels = [self._channel(address, credentials) for address in self.urls]
        self._stubs = [GRPCInferenceServiceStub(channel) for channel in self._channels]

    @property
    def dead_stubs(self) -> int:
        """Answers so far that said a server's python process is dead: that server needs a restart."""
        return self._course.dead_stubs

    def _channel(self, address: str, credentials: grpc.ChannelCredentials | None) -> Any:
        if credentials:
            return self._grpc.secure_channel(address, credentials, options=CHANNEL)
        return self._grpc.insecure_channel(address, options=CHANNEL)

    def _answer(self, response: messages.ModelInferResponse, attempt: Attempt) -> Outcome:
        try:
            answer = answer_of(response)
        except (ValueError, KeyError) as error:
            said = f"{self.urls[attempt.replica]} sent what is no answer of {MODEL} ({type(error).__name__}: {error})"
            return ServerFailed("INTERNAL", said)
        if self.expect_label_set in (None, answer.label_set):
            return answer
        served = f"label set {answer.label_set}" if answer.label_set else "no label set"
        return LabelSetChanged(
            "FAILED_PRECONDITION",
            f"{self.urls[attempt.replica]} serves {served} (version {answer.model_version}), "
            f"expected label set {self.expect_label_set}; ask a server of that bundle, or expect the new one",
        )

    def _error(self, failure: RpcFailure, attempt: Attempt) -> ClassifierError:
        return explain(failure.code(), failure.details(), self.urls[attempt.replica], attempt.timeout_s)

    def _next(self, attempt: Attempt, outcome: Outcome, window: Window | None = None) -> Attempt | None:
        """The attempt to follow, or None where this outcome is the product's."""
        rule = rule_for(outcome.code, outcome.message) if isinstance(outcome, ClassifierError) else None
        return self._course.after(attempt, rule, time.monotonic(), window)


def check_in_flight(in_flight: int) -> None:
    if in_flight < 1:
        raise ValueError(f"in_flight is {in_flight}, expected 1 or more")
