"""Load on a server while `cma-clip publish` and its --rollback change what it serves: nothing lost, nothing mixed."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from bench.load.calls import Call, open_loop
from bench.load.experiments import timeline
from bench.load.requests import OK, TitleAndImage, good_requests
from bench.load.summary import summarize
from client.protocol import answer_of
from cma_clip.command import Failure
from model.bundle import Bundle

# Least distance between what two bundles say of a product, for an answer to tell which of them it is of.
APART = 0.05
FACTOR = 2.0  # of p99 at rest, what it may be while a bundle is published
PUBLISH, ROLLBACK, REST = "publish", "rollback", "at rest"


class Known(NamedTuple):
    """Products that bundles answer differently.

    Attributes:
        expected: label set -> torch's PROBABILITIES [N, C] of each product.
    """

    products: list[TitleAndImage]
    expected: dict[str, np.ndarray]


class Action(NamedTuple):
    """A command that changes what is served: its name here, and its run."""

    name: str
    run: Callable[[], None]


def known_answers(bundles: Sequence[Bundle], products: Sequence[TitleAndImage], most: int = 64) -> Known:
    """Raises ValueError where bundles share a label set, or answer all products alike."""
    expected = {bundle.config.tasks.label_set_hash: bundle.scores(products[:most])[0] for bundle in bundles}
    if len(expected) != len(bundles):
        raise ValueError("two of the bundles have the same label set: which of them answers could not be told")
    pairs = itertools.combinations(list(expected.values()), 2)
    apart_N = np.min([_distance(first, second) for first, second in pairs], axis=0)
    kept = np.flatnonzero(apart_N > APART).tolist()
    if not kept:
        raise ValueError(f"the bundles answer each of {len(apart_N)} products alike, to {APART}")
    return Known([products[n] for n in kept], {name: array[kept] for name, array in expected.items()})


def turns(bundles: Sequence[str], times: int, words: Sequence[str]) -> list[Action]:
    """Each time: publish the next bundle, take it back, serve it again. The first of them should be served before."""
    actions = []
    for number in range(1, times + 1):
        actions.append(Action(PUBLISH, _command(bundles[number % len(bundles)], *words)))
        actions += [Action(ROLLBACK, _command("--rollback", *words))] * 2
    return actions


def publishing(
    url: str, known: Known, rate: float, actions: Sequence[Action], pause_s: float, timeout_s: float = 10.0
) -> dict[str, Any]:
    """`rate` requests a second while the actions run one after the other.

    Args:
        pause_s: before, between and after them; what is answered then is `at rest`.
    Returns:
        figures at rest and of each kind of action, seconds of each, actions (name, start, end), answers by label set,
        mixed (how many are not their label set's), furthest (from torch), timeline, verdict.
    """
    done: list[tuple[str, float, float]] = []
    start = time.perf_counter()

    def work() -> None:
        for action in actions:
            time.sleep(pause_s)
            began_s = time.perf_counter() - start
            action.run()
            done.append((action.name, began_s, time.perf_counter() - start))
        time.sleep(pause_s)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        offset_s = time.perf_counter() - start
        calls = open_loop(
            url, good_requests(known.products), rate, math.inf, timeout_s, _look, lambda _: working.done()
        )
        working.result()
    done = [(name, began_s - offset_s, ended_s - offset_s) for name, began_s, ended_s in done]
    return _figures(calls, done, known)


def _figures(calls: Sequence[Call], done: Sequence[tuple[str, float, float]], known: Known) -> dict[str, Any]:
    parts: dict[str, list[Call]] = {REST: [], PUBLISH: [], ROLLBACK: []}
    for call in calls:
        within = (name for name, began_s, ended_s in done if began_s <= call.due_s <= ended_s)
        parts[next(within, REST)].append(call)
    seconds = {kind: [ended_s - began_s for name, began_s, ended_s in done if name == kind] for kind in parts}
    figures = {name: summarize(part, max(sum(seconds[name]), 1e-9)) for name, part in parts.items()}
    distances = [_from_own(call, known) for call in calls if call.code == OK]
    busy = summarize(parts[PUBLISH] + parts[ROLLBACK], 1.0)
    mixed = sum(distance > APART / 2 for distance in distances)
    verdict = {
        "no request failed": not any(each["failures"] for each in figures.values()),
        "no answer is of two bundles": not mixed,
        f"p99 at most {FACTOR:g} times that at rest": busy["p99_ms"] <= FACTOR * figures[REST]["p99_ms"],
    }
    return {
        **figures, "p99_times": busy["p99_ms"] / figures[REST]["p99_ms"], "seconds": seconds, "actions": list(done),
        "answers": Counter(call.answer[0] for call in calls if call.code == OK), "mixed": mixed,
        "furthest": float(max(distances)), "timeline": timeline(calls), "verdict": verdict,
    }  # fmt: skip


def _look(response: bytes) -> tuple[str, np.ndarray]:
    answer = answer_of(service_pb2.ModelInferResponse.FromString(response))
    return str(answer.label_set), answer.probabilities


def _from_own(call: Call, known: Known) -> float:
    """How far an answer is from what its label set's bundle says; 1 for labels of none of them."""
    label_set, probabilities_C = call.answer
    if label_set not in known.expected:
        return 1.0
    expected_C = known.expected[label_set][call.request]
    return float(_distance(probabilities_C[None], expected_C[None])[0])


def _distance(first_NC: np.ndarray, second_NC: np.ndarray) -> np.ndarray:
    """Largest difference of a probability [N]; 1 where the bundles have another number of labels."""
    if first_NC.shape != second_NC.shape:
        return np.ones(len(first_NC))
    return np.abs(first_NC - second_NC).max(axis=1)


def _command(*words: str) -> Callable[[], None]:
    def run() -> None:
        result = subprocess.run([sys.executable, "-m", "serve.publish", *words], capture_output=True, text=True)
        if result.returncode:
            raise Failure(f"serve.publish {' '.join(words)} ended with {result.returncode}: {result.stderr[-500:]}")

    return run
