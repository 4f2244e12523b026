"""Figures of a load: percentiles, throughput, failures by reason, growth over time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.load.load import Outcome
from bench.load.requests import OK, Request

QUEUE_LIMITS = ("Exceeds maximum queue size", "Request timeout expired")
ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")
REFUSAL = re.compile(r"([A-Z][A-Z0-9_]+): ")
LONGEST_REASON = 60


def summarize(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Figures of one load.

    Args:
        seconds: how long it lasted; answers that came later count for latency, not for throughput.
    Returns:
        sent, ok, throughput (OK answers a second), p50_ms and p99_ms of OK answers, failures (reason ->
        count), late_p99_ms (how late the generator itself was: a large one says that it was the limit).
    """
    good = [outcome for outcome in outcomes if outcome.code == OK]
    return {
        "sent": len(outcomes),
        "ok": len(good),
        "throughput": sum(outcome.done_s <= seconds for outcome in good) / seconds,
        "p50_ms": percentile_ms([outcome.latency_s for outcome in good], 50),
        "p99_ms": percentile_ms([outcome.latency_s for outcome in good], 99),
        "late_p99_ms": percentile_ms([outcome.sent_s - outcome.due_s for outcome in outcomes], 99),
        "failures": dict(Counter(reason(outcome) for outcome in outcomes if outcome.code != OK).most_common()),
    }


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """In milliseconds; None where there is nothing to take it of."""
    return round(1e3 * float(np.percentile(seconds, percent)), 3) if len(seconds) else None


def reason(outcome: Outcome) -> str:
    """Why a call failed, the same for all that failed alike: a refusal's code, or gRPC's status and what was said."""
    message = ENSEMBLE.sub("", " ".join(outcome.message.split()))
    if outcome.code == "INVALID_ARGUMENT" and (refusal := REFUSAL.match(message)):
        return refusal[1]
    for limit in QUEUE_LIMITS:
        if limit in message:
            return f"{outcome.code} {limit}"
    if outcome.code == "DEADLINE_EXCEEDED":
        return outcome.code
    return f"{outcome.code} {re.sub(r'[0-9a-f]{8,}', '…', message)[:LONGEST_REASON]}".rstrip()


def is_queue_limit(failure: str) -> bool:
    """Whether a reason is one of the two that a full queue gives."""
    return failure in {f"UNAVAILABLE {limit}" for limit in QUEUE_LIMITS}


def unexpected(outcomes: Sequence[Outcome], requests: Sequence[Request]) -> Counter[tuple[str, str]]:
    """(expected, got) -> how often, for the calls whose answer was not the one they must get."""
    answers = ((requests[o.request].expected, OK if o.code == OK else reason(o)) for o in outcomes)
    return Counter(pair for pair in answers if pair[0] != pair[1])


def growth(times: Sequence[float], values: Sequence[float], warm_up: float = 0.3) -> float:
    """By how much a quantity grew after the first `warm_up` of the time, by its slope.

    The slope is the median over all pairs (Theil and Sen), so that single outliers do not count.
    """
    since, level = np.asarray(times, float), np.asarray(values, float)
    kept = since >= since[0] + warm_up * (since[-1] - since[0])
    since, level = since[kept], level[kept]
    step = -(-len(since) // 400)
    since, level = since[::step], level[::step]
    first, second = np.triu_indices(len(since), 1)
    if not len(first):
        return 0.0
    slope = float(np.median((level[second] - level[first]) / (since[second] - since[first])))
    return slope * float(since[-1] - since[0])


def windows(outcomes: Sequence[Outcome], width_s: float) -> list[dict[str, Any]]:
    """Figures of every `width_s` seconds, by when requests were due; a shorter last window is left out."""
    last = max(outcome.due_s for outcome in outcomes)
    parts: list[list[Outcome]] = [[] for _ in range(int(last / width_s) + 1)]
    for outcome in outcomes:
        parts[int(outcome.due_s / width_s)].append(outcome)
    whole = parts[:-1] or parts
    rows = []
    for index, part in enumerate(whole):
        good = [outcome.latency_s for outcome in part if outcome.code == OK]
        figures = {"p50_ms": percentile_ms(good, 50), "p99_ms": percentile_ms(good, 99)}
        rows.append({"at_s": index * width_s, "sent": len(part), "failed": len(part) - len(good), **figures})
    return rows
