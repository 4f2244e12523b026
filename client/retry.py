"""What the client does about a failed call, as data: no calls, no clock and no sleeping in here.

`RULES` is the policy. `Course` keeps what the calls of one client have taught it: which replicas are
down, how many dead stubs it met. `Window` is the number of calls that may be open. Times are seconds
on any clock that only goes forward; who sends the calls passes them in.
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from client.errors import (
    ClassifierError,
    DeadlineExceeded,
    InvalidProduct,
    LabelSetChanged,
    Misconfigured,
    ServerBusy,
    ServerFailed,
    ServerUnavailable,
)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0
LONGER_DEADLINE = 2.0
# No count stops such a retry: only the time that the caller gave (retry_for_s).
UNTIL_LATE = 1_000_000


@dataclass(frozen=True)
class Rule:
    """A row of the retry policy.

    Attributes:
        name: what is wrong, for people and for counting.
        code: gRPC's status name.
        message: must be found in the server's message.
        error: what the caller gets where no attempt is left.
        retries: at most this often for one product.
        go: the next attempt waits and goes to any replica (`wait`), or goes to another one, at once
            where one is up, and else to the same one later (`elsewhere`), or never to the same (`other`).
        sheds: the server is too busy: fewer calls at a time.
        alarm: an operator must hear of it; counted in `Course.dead_stubs`.
        timeout_factor: deadline of the next attempt, relative to this one's.
    """

    name: str
    code: str
    message: re.Pattern[str]
    error: type[ClassifierError]
    retries: int
    go: Literal["wait", "elsewhere", "other"] = "wait"
    sheds: bool = False
    alarm: bool = False
    timeout_factor: float = 1.0


def _rule(name: str, code: str, message: str, error: type[ClassifierError], retries: int, **what: object) -> Rule:
    return Rule(name, code, re.compile(message, re.IGNORECASE), error, retries, **what)  # type: ignore[arg-type]


# The first row that fits counts.
RULES = (
    _rule("bad input", "INVALID_ARGUMENT", "", InvalidProduct, 0),
    _rule("restricted", "UNAVAILABLE", "restricted", Misconfigured, 0),
    _rule("tls", "UNAVAILABLE", "^TLS with", Misconfigured, 0),
    _rule("queue full", "UNAVAILABLE", "exceeds maximum queue size", ServerBusy, UNTIL_LATE, sheds=True),
    _rule("queue timeout", "UNAVAILABLE", "request timeout expired", ServerBusy, UNTIL_LATE, sheds=True),
    # "Server is stopping", a refused connection, one that broke off under the call.
    _rule("no server", "UNAVAILABLE", "", ServerUnavailable, UNTIL_LATE, go="elsewhere"),
    # A gRPC server that goes down cancels what is open; "Channel closed!" is this client's own close.
    _rule("closed", "CANCELLED", "closed", ServerUnavailable, 0),
    _rule("cancelled", "CANCELLED", "", ServerUnavailable, UNTIL_LATE, go="elsewhere"),
    _rule("no version", "NOT_FOUND", "no available versions", ServerUnavailable, UNTIL_LATE, go="elsewhere"),
    _rule("no model", "NOT_FOUND", "", Misconfigured, 0),
    _rule("dead stub", "INTERNAL", "stub process .* not healthy", ServerFailed, 2, go="other", alarm=True),
    _rule("internal", "INTERNAL", "", ServerFailed, 1),
    _rule("deadline", "DEADLINE_EXCEEDED", "", DeadlineExceeded, 1, go="elsewhere", timeout_factor=LONGER_DEADLINE),
    _rule("label set", "FAILED_PRECONDITION", "label set", LabelSetChanged, 0),
    _rule("not allowed", "UNAUTHENTICATED", "", Misconfigured, 0),
    _rule("not allowed", "PERMISSION_DENIED", "", Misconfigured, 0),
    _rule("not served", "UNIMPLEMENTED", "", Misconfigured, 0),
)
ANYTHING_ELSE = _rule("other", "", "", ClassifierError, 0)


def rule_for(code: str, message: str) -> Rule:
    """The row of `RULES` for a status name and the server's message."""
    fitting = (rule for rule in RULES if rule.code == code and rule.message.search(message))
    return next(fitting, ANYTHING_ELSE)


def pause_s(times: int, jitter: float) -> float:
    """Seconds to wait after `times` failures in a row (0 or more): doubling, capped, spread by half.

    Args:
        jitter: 0..1, so that clients that failed together do not come back together.
    """
    return min(FIRST_PAUSE_S * 2.0 ** min(times, 30), LONGEST_PAUSE_S) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class Attempt:
    """One call for one product.

    Attributes:
        replica: index of the server to ask.
        timeout_s: the call's deadline, seconds.
        not_before: when to send it.
        first: when the product's first attempt was due.
        failures: name of a rule -> how often it stopped this product.
    """

    replica: int
    timeout_s: float
    not_before: float
    first: float
    failures: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Replica:
    failures: int = 0
    failed_at: float = float("-inf")
    up_from: float = float("-inf")


class Course:
    """Where the next call goes, and when; shared by all calls of one client, from any thread.

    Args:
        replicas: number of servers.
        timeout_s: deadline of a product's first attempt.
        retry_for_s: no attempt begins later than this after the product's first; 0: never a second.
        jitter: gives numbers in 0..1.

    Attributes:
        dead_stubs: answers that said a server's python process is dead: an operator must restart that one.
    """

    def __init__(
        self, replicas: int, timeout_s: float, retry_for_s: float, jitter: Callable[[], float] = random.random
    ) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s is {timeout_s}, expected more than 0 seconds")
        if retry_for_s < 0:
            raise ValueError(f"retry_for_s is {retry_for_s}, expected 0 seconds or more")
        self.timeout_s, self.retry_for_s = timeout_s, retry_for_s
        self.dead_stubs = 0
        self._replicas = [_Replica() for _ in range(replicas)]
        self._turn = 0
        self._jitter = jitter
        self._lock = threading.Lock()

    def first(self, now: float) -> Attempt:
        """A product's first attempt; servers that are up take turns, and it is due at once where one is."""
        with self._lock:
            replica = self._choose(now, avoid=None)
            due = min(max(now, self._replicas[replica].up_from), now + self.retry_for_s)
        return Attempt(replica, self.timeout_s, due, first=now)

    def after(self, attempt: Attempt, rule: Rule | None, now: float, window: Window | None = None) -> Attempt | None:
        """The attempt that follows this one, or None where the product is settled.

        Args:
            rule: why the attempt failed; None where it did not.
            window: of the calls that this one belongs to; it learns from the outcome.
        """
        if window is not None:
            window.learn(attempt, rule, now)
        if rule is None:
            self._is_up(attempt.replica)
            return None
        times = attempt.failures.get(rule.name, 0)
        with self._lock:
            self.dead_stubs += rule.alarm
            if rule.go != "wait":
                self._mark_down(attempt, now)
            replica, due = self._next_place(attempt, rule, times, now)
        if times >= rule.retries or due > attempt.first + self.retry_for_s:
            return None
        if rule.go == "other" and replica == attempt.replica:
            return None
        failures = {**attempt.failures, rule.name: times + 1}
        return Attempt(replica, attempt.timeout_s * rule.timeout_factor, due, attempt.first, failures)

    def _next_place(self, attempt: Attempt, rule: Rule, times: int, now: float) -> tuple[int, float]:
        """Which server, and when."""
        if rule.go == "wait":
            return self._choose(now, avoid=None), now + pause_s(times, self._jitter())
        replica = self._choose(now, avoid=attempt.replica)
        return replica, max(now, self._replicas[replica].up_from)

    def _choose(self, now: float, avoid: int | None) -> int:
        """The next in turn of those that are up; where none is, the one that is tried again first."""
        self._turn += 1
        places = [(self._turn + step) % len(self._replicas) for step in range(len(self._replicas))]
        up = [place for place in places if self._replicas[place].up_from <= now]
        others = [place for place in up if place != avoid]
        return (others or up or [min(places, key=lambda place: self._replicas[place].up_from)])[0]

    def _is_up(self, place: int) -> None:
        replica = self._replicas[place]
        if replica.failures:
            with self._lock:
                replica.failures, replica.up_from = 0, float("-inf")

    def _mark_down(self, attempt: Attempt, now: float) -> None:
        """Leave the server alone for a while; all calls that one crash broke off count as one failure."""
        replica = self._replicas[attempt.replica]
        if attempt.not_before < replica.failed_at:
            return
        replica.up_from = now + pause_s(replica.failures, self._jitter())
        replica.failures, replica.failed_at = replica.failures + 1, now


class Window:
    """How many calls may be open: halved when the server sheds load, grown by one a round of successes.

    Args:
        most: the limit at the start and the highest ever.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._size = float(most)
        self._shrunk_at = float("-inf")

    @property
    def size(self) -> int:
        return int(self._size)

    def learn(self, attempt: Attempt, rule: Rule | None, now: float) -> None:
        """Grow after a success; shrink, once an overload, after a call that the server shed."""
        if rule is None:
            self._size = min(self._size + 1 / self._size, self.most)
        elif rule.sheds and attempt.not_before >= self._shrunk_at:
            self._size, self._shrunk_at = max(self._size / 2, 1.0), now
