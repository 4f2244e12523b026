"""The loads that `python -m bench.load` puts on a server, each with its figures as plain data."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import tritonclient.grpc as triton

from bench.harness import in_turn
from bench.load.calls import TIMEOUT_S, Call, closed_loop, open_loop
from bench.load.requests import OK, Request
from bench.load.steps import counters, spent
from bench.load.summary import growth, is_queue_limit, latency_ms, reason, summarize, unexpected, windows
from bench.load.watch import Sample, Watch

WARM_UP_S = 1.0
CAPACITY_S = 5.0
CALM_S = 3.0
RECOVERY_S = 5.0
RECOVERY_WINDOW_S = 0.5
# What may come and go without being a leak: the larger of a share of the level and a fixed amount.
ALLOWED_GROWTH = {
    "rss": (0.02, 32 << 20),
    "fds": (0.02, 8),
    "threads": (0.02, 4),
    "shm": (0.0, 1 << 20),
    "p99_ms": (0.5, 50.0),
}

Load = Callable[[int, float], list[Call]]  # concurrency, seconds


def sweep(
    url: str, requests: Sequence[Request], concurrencies: Sequence[int], seconds: float
) -> Iterator[dict[str, Any]]:
    """Per number of callers: figures of the load and time per step of the ensemble."""
    for concurrency in concurrencies:
        closed_loop(url, requests, concurrency, seconds=WARM_UP_S)
        with triton.InferenceServerClient(url) as client:
            before = counters(client)
            calls = closed_loop(url, requests, concurrency, seconds=seconds)
            steps = spent(before, counters(client))
        yield {"concurrency": concurrency, **summarize(calls, seconds), "steps": steps}


def capacity(url: str, requests: Sequence[Request], concurrency: int, timeout_s: float = TIMEOUT_S) -> float:
    """OK answers a second at a fixed number of callers.

    Raises:
        ValueError: the server refused some, so that the rate is no measure of what it can do.
    """
    closed_loop(url, requests, concurrency, seconds=WARM_UP_S, timeout_s=timeout_s)
    calls = closed_loop(url, requests, concurrency, seconds=CAPACITY_S, timeout_s=timeout_s)
    figures = summarize(calls, CAPACITY_S)
    if figures["failures"] or not figures["ok"]:
        raise ValueError(f"no capacity at {concurrency} callers, try fewer: failures {figures['failures']}")
    return figures["throughput"]


def overload(
    url: str,
    requests: Sequence[Request],
    concurrency: int,
    factor: float = 3.0,
    seconds: float = 10.0,
    timeout_s: float = TIMEOUT_S,
    accepted_limit_ms: float = 2000.0,
    refused_limit_ms: float = 100.0,
    least_share: float = 0.8,
) -> dict[str, Any]:
    """Half of capacity, then `factor` times capacity, then half of it again, at fixed rates.

    Args:
        concurrency: callers at which capacity is found.
        accepted_limit_ms: p99 that accepted requests must keep during the overload.
        refused_limit_ms: median in which the others must be refused.
        least_share: of capacity that must go on being answered. Where this process shares the server's cores and a
            request costs little, what is sent and refused takes a part of them, and no server can keep it.
    Returns:
        capacity, before, during, after (figures of each), rejected (queue limit -> count and latency from
        sending), recovered_s (None: not within RECOVERY_S), timeline, verdict.
    """
    most = capacity(url, requests, concurrency, timeout_s)
    calm = open_loop(url, requests, most / 2, CALM_S, timeout_s)
    storm = open_loop(url, requests, most * factor, seconds, timeout_s)
    overhang_s = max(call.done_s for call in storm) - seconds
    after = open_loop(url, requests, most / 2, RECOVERY_S, timeout_s)
    before, during = summarize(calm, CALM_S), summarize(storm, seconds)
    recovered_s = recovery(after, before["p99_ms"], max(0.0, overhang_s))
    refusals = rejected(storm)
    problems = [name for name in during["failures"] if not is_queue_limit(name)]
    verdict = {
        f"the excess is refused, within {refused_limit_ms:g} ms": bool(refusals)
        and all(figures["p50_ms"] <= refused_limit_ms for figures in refusals.values()),
        f"{least_share:g} of capacity goes on": during["throughput"] >= least_share * most,
        "by the queue's limits only": not problems,
        f"accepted p99 within {accepted_limit_ms:g} ms": during["p99_ms"] is not None
        and during["p99_ms"] <= accepted_limit_ms,
        f"normal again within {RECOVERY_S:g} s": recovered_s is not None,
    }
    return {
        "capacity": most, "factor": factor, "before": before, "during": during, "after": summarize(after, RECOVERY_S),
        "rejected": refusals, "recovered_s": recovered_s, "timeline": timeline(storm), "verdict": verdict,
    }  # fmt: skip


def rejected(calls: Sequence[Call]) -> dict[str, dict[str, Any]]:
    """Reason -> count, p50 and p99 in ms from sending to the refusal."""
    by_reason: dict[str, list[float]] = {}
    for call in calls:
        if call.code != OK:
            by_reason.setdefault(reason(call), []).append(call.done_s - call.sent_s)
    return {name: {"count": len(waits), **latency_ms(waits)} for name, waits in by_reason.items()}


def recovery(after: Sequence[Call], normal_ms: float | None, overhang_s: float) -> float | None:
    """Seconds from the end of an overload until the server was as before; None if it was not within RECOVERY_S.

    As before: from then on no failure, and every half second a median of at most `normal_ms`.

    Args:
        normal_ms: p99 before the overload.
        after: a moderate load that began `overhang_s` after the last request of the overload was due.
    """
    if normal_ms is None:
        return None
    normal_from = overhang_s
    for window in windows(after, RECOVERY_WINDOW_S):
        if window["failed"] or window["p50_ms"] is None or window["p50_ms"] > normal_ms:
            normal_from = overhang_s + window["at_s"] + RECOVERY_WINDOW_S
    last_start = overhang_s + windows(after, RECOVERY_WINDOW_S)[-1]["at_s"]
    return round(normal_from, 2) if normal_from <= min(RECOVERY_S, last_start) else None


def timeline(calls: Sequence[Call], most: int = 5000) -> list[tuple[float, float, str]]:
    """(due s, latency ms, reason or OK) of at most `most` calls, for a plot."""
    step = -(-len(calls) // most)
    return [(round(o.due_s, 3), round(1e3 * o.latency_s, 2), OK if o.code == OK else reason(o)) for o in calls[::step]]


def soak(
    url: str,
    requests: Sequence[Request],
    pid: int,
    concurrency: int,
    rate: float | None = None,
    interval_s: float = 1.0,
) -> dict[str, Any]:
    """Send every request once and watch the server's process tree.

    Args:
        pid: of tritonserver.
        rate: requests a second; None: `concurrency` callers, as fast as they are answered. p99 must be flat
            only at a rate: at full load it says what else the machine did.
        interval_s: time between two looks at the processes.
    Returns:
        counts by expected answer, unexpected answers, the watched quantities and p99 over time, how much each
        grew after warm-up, verdict.
    """
    start = time.monotonic()
    with Watch(pid, interval_s) as watch:
        if rate:
            calls = open_loop(url, requests, rate, len(requests) / rate)
        else:
            calls = closed_loop(url, requests, concurrency, count=len(requests))
        elapsed_s = time.monotonic() - start
    wrong = unexpected(calls, requests)
    series = {name: [getattr(s, name) for s in watch.samples] for name in ("rss", "fds", "threads", "shm")}
    parts = windows(calls, max(interval_s, elapsed_s / 60))
    grown = growths(watch.samples, series, parts)
    verdict = {
        "every answer as expected": not wrong and len(calls) == len(requests),
        "no process ended or began": not watch.fault and len({s.processes for s in watch.samples}) == 1,
        **{f"{name} flat": bool(g["growth"] <= g["allowed"]) for name, g in grown.items() if rate or name in series},
    }
    return {
        **summarize(calls, elapsed_s), "seconds": elapsed_s, "expected": Counter(r.expected for r in requests),
        "unexpected": [[*pair, count] for pair, count in wrong.most_common(20)],
        "at_s": [s.at_s for s in watch.samples], **series, "windows": parts, "grown": grown, "fault": watch.fault,
        "verdict": verdict,
    }  # fmt: skip


def growths(
    samples: Sequence[Sample], series: dict[str, list[int]], parts: Sequence[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Quantity -> its growth after warm-up, how much is allowed, and its last value."""
    times = {name: ([s.at_s for s in samples], values) for name, values in series.items()}
    with_p99 = [part for part in parts if part["p99_ms"] is not None]
    times["p99_ms"] = ([p["at_s"] for p in with_p99], [p["p99_ms"] for p in with_p99])
    result = {}
    for name, (at, values) in times.items():
        share, fixed = ALLOWED_GROWTH[name]
        last = values[-1] if values else 0
        level = statistics.median(values) if values else 0
        result[name] = {"growth": growth(at, values), "allowed": max(share * level, fixed), "last": last}
    return result


def compare(
    loads: Mapping[str, Load], concurrencies: Sequence[int], seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Two ways to answer the same load, turn by turn.

    Returns:
        per number of callers: throughput and p50 of each (median over the rounds), `ratio` of the first's
        throughput to the second's and `p50_more_ms`, the first's p50 less the second's: medians over the rounds;
        `ratios` of all rounds.
    Raises:
        ValueError: a call failed, so there is nothing to compare.
    """
    for concurrency in concurrencies:
        for load in loads.values():
            load(concurrency, WARM_UP_S)
        turns = {name: partial(load, concurrency, seconds) for name, load in loads.items()}
        measured = {
            name: [summarize(calls, seconds) for calls in taken] for name, taken in in_turn(turns, rounds).items()
        }
        for name, figures in measured.items():
            if any(f["failures"] or not f["ok"] for f in figures):
                raise ValueError(f"{name} at {concurrency} callers: failures {[f['failures'] for f in figures]}")
        pairs = list(zip(*measured.values(), strict=True))
        ratios = [first["throughput"] / second["throughput"] for first, second in pairs]
        yield {
            "concurrency": concurrency,
            **{name: {key: statistics.median(f[key] for f in figures) for key in ("throughput", "p50_ms", "p99_ms")}
               for name, figures in measured.items()},
            "ratio": statistics.median(ratios), "ratios": ratios,
            "p50_more_ms": statistics.median(first["p50_ms"] - second["p50_ms"] for first, second in pairs),
        }  # fmt: skip
