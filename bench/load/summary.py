"""Figures of a load: percentiles, throughput, failures by reason, growth over time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.harness import percentiles
from bench.load.calls import Call
from bench.load.requests import OK, Request

QUEUE_LIMITS = ("Exceeds maximum queue size", "Request timeout expired")
ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")
REFUSAL = re.compile(r"([A-Z][A-Z0-9_]+): ")
LONGEST_REASON = 60


def summarize(calls: Sequence[Call], seconds: float) -> dict[str, Any]:
    """Figures of one load.

    Args:
        seconds: how long it lasted; answers that came later count for latency, not for throughput.
    Returns:
        sent, ok, throughput (OK answers a second), p50_ms and p99_ms of OK answers, failures (reason ->
        count), late_p99_ms (how late the generator itself was: a large one says that it was the limit).
    """
    good = [call for call in calls if call.code == OK]
    return {
        "sent": len(calls),
        "ok": len(good),
        "throughput": sum(call.done_s <= seconds for call in good) / seconds,
        **latency_ms([call.latency_s for call in good]),
        "late_p99_ms": latency_ms([call.sent_s - call.due_s for call in calls])["p99_ms"],
        "failures": dict(Counter(reason(call) for call in calls if call.code != OK).most_common()),
    }


def latency_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """p50_ms and p99_ms; None where there is nothing to take them of."""
    found = percentiles([1e3 * value for value in seconds], {"p50_ms": 50, "p99_ms": 99})
    return {name: value if value is None else round(value, 3) for name, value in found.items()}


def reason(call: Call) -> str:
    """Why a call failed, the same for all that failed alike: a refusal's code, or gRPC's status and what was said."""
    message = ENSEMBLE.sub("", " ".join(call.message.split()))
    if call.code == "INVALID_ARGUMENT" and (refusal := REFUSAL.match(message)):
        return refusal[1]
    for limit in QUEUE_LIMITS:
        if limit in message:
            return f"{call.code} {limit}"
    if call.code == "DEADLINE_EXCEEDED":
        return call.code
    return f"{call.code} {re.sub(r'[0-9a-f]{8,}', '…', message)[:LONGEST_REASON]}".rstrip()


def is_queue_limit(failure: str) -> bool:
    """Whether a reason is one of the two that a full queue gives."""
    return failure in {f"UNAVAILABLE {limit}" for limit in QUEUE_LIMITS}


def unexpected(calls: Sequence[Call], requests: Sequence[Request]) -> Counter[tuple[str, str]]:
    """(expected, got) -> how often, for the calls whose answer was not the one they must get."""
    answers = ((requests[o.request].expected, OK if o.code == OK else reason(o)) for o in calls)
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


def windows(calls: Sequence[Call], width_s: float) -> list[dict[str, Any]]:
    """Figures of every `width_s` seconds, by when requests were due; a shorter last window is left out."""
    last = max(call.due_s for call in calls)
    parts: list[list[Call]] = [[] for _ in range(int(last / width_s) + 1)]
    for call in calls:
        parts[int(call.due_s / width_s)].append(call)
    whole = parts[:-1] or parts
    rows = []
    for index, part in enumerate(whole):
        good = [call.latency_s for call in part if call.code == OK]
        rows.append({"at_s": index * width_s, "sent": len(part), "failed": len(part) - len(good), **latency_ms(good)})
    return rows
