"""Counters and gauges of a python step on the server's metrics page, beside Triton's own."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

from model.reference import BIN_NAMES, INAPPLICABLE, Reference, bin_of
from model.tasks import APPLIES_FROM, NOT_APPLICABLE
from serve.population import Key, Population

COUNTERS = {
    "cma_clip_refusals_total": "Requests refused as the caller's fault, by code",
    "cma_clip_shed_total": "Requests refused because too much work waits, by step",
    "cma_clip_wait_us_total": "Microseconds that requests waited in a step's own queue, by step",
    "cma_clip_incidents_total": "Requests failed by an unforeseen error, by step",
    "cma_clip_not_finite_total": "Requests failed because the engine's logits or text share are no finite numbers",
    "cma_clip_not_counted_total": "Amounts that no counter can take (below 0, not finite), by counter",
    "cma_clip_answers_total": "Labels answered, by task, label and whether it was accepted; (not applicable) is one",
    "cma_clip_score_sum": "Sum of the best scores, by task; divide by the sum of cma_clip_score_bins_total",
    "cma_clip_text_share_sum": "Sum of the text shares (lambda), by task",
    "cma_clip_text_share_count": "Products answered, by task",
    "cma_clip_unlabelled_total": "Products answered with no label, by task",
    "cma_clip_score_bins_total": "Products that a task applies to, by task and lower edge of the best score's bin",
    "cma_clip_text_share_bins_total": "Products answered, by task and lower edge of the text share's bin",
}
GAUGES = {
    "cma_clip_population_stability_index": "How far the last answers are from validation's, by task and kind",
    "cma_clip_population_stability_by_chance": "What that rarely exceeds while nothing has changed",
}
# After so many seconds without an answer the gauges go until the next: a set that is kept for a rollback says nothing.
IDLE_S = 3600.0


class StepMetrics:
    """Adds up in this process and hands over once a period: each hand-over is a message to the server.

    Args:
        period_s: seconds between two hand-overs.
        clock: seconds, only forward.
    """

    def __init__(self, period_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._pending: defaultdict[Key, float] = defaultdict(float)
        self._population: Population | None = None
        self._answered = 0.0
        self._worker = ""
        self._families: dict[str, Any] = {}
        self._metrics: dict[Key, Any] = {}
        self._lock, self._closing, self._period_s, self._clock = threading.Lock(), threading.Event(), period_s, clock
        self._thread = threading.Thread(target=self._hand_over_regularly, daemon=True)
        self._thread.start()

    def watch(self, reference: Reference, worker: str) -> None:
        """Say from now on how far the answers are from these.

        Args:
            worker: this instance of the step, as each counts for itself.
        """
        self._population, self._worker = Population(reference), worker

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Increase one of COUNTERS; what no counter can take (below 0, not finite) is left out, and that is counted."""
        self._add([((name, tuple(labels.items())), amount)])

    def _add(self, increases: Iterable[tuple[Key, float]]) -> None:
        with self._lock:
            for key, amount in increases:
                if 0 <= amount < math.inf:
                    self._pending[key] += amount
                else:
                    self._pending["cma_clip_not_counted_total", (("counter", key[0]),)] += 1

    def count(self, answer: Mapping[str, Mapping[str, Any]]) -> None:
        """A product's answer as a dashboard shows it: the mix of labels, scores and λ of each task.

        Args:
            answer: task -> labels, accepted, top, text_share, applicable, as PREDICTION has them.
        """
        self._add(increase for task, said in answer.items() for increase in self._increases(task, said))

    def _increases(self, task: str, said: Mapping[str, Any]) -> Iterator[tuple[Key, float]]:
        taken = said.get("accepted_labels", said["labels"] if said["accepted"] else [])
        of_task, score, share = ("task", task), said["top"][0][1], said["text_share"]
        if said.get("applicable", 1.0) < APPLIES_FROM:
            labels = (of_task, ("label", INAPPLICABLE), ("accepted", NOT_APPLICABLE))
            yield ("cma_clip_answers_total", labels), 1
        else:
            yield ("cma_clip_unlabelled_total", (of_task,)), not said["labels"]
            yield ("cma_clip_score_sum", (of_task,)), score
            yield ("cma_clip_score_bins_total", (of_task, ("bin", BIN_NAMES[bin_of(score)]))), 1
        for label in said["labels"]:
            shown = self._population.shown(task, label) if self._population else label
            accepted = "true" if label in taken else "false"
            yield ("cma_clip_answers_total", (of_task, ("label", shown), ("accepted", accepted))), 1
        yield ("cma_clip_text_share_sum", (of_task,)), share
        yield ("cma_clip_text_share_bins_total", (of_task, ("bin", BIN_NAMES[bin_of(share)]))), 1
        yield ("cma_clip_text_share_count", (of_task,)), 1

    def hand_over(self) -> None:
        """Give the server what was added since the last time."""
        with self._lock:
            pending, self._pending = self._pending, defaultdict(float)
        for key, amount in pending.items():
            self._tell(key, "increment", amount)
        if self._population and pending:
            self._answered = self._clock()
            self._population.take(pending)
            for key, value in self._gauges(self._population):
                self._tell(key, "set", value)
        elif self._clock() - self._answered > IDLE_S:
            for key in [key for key in self._metrics if key[0] in GAUGES]:
                del self._metrics[key]

    def _tell(self, key: Key, change: str, amount: float) -> None:
        try:
            getattr(self._metric(key), change)(amount)
        except Exception:  # one of them may not end the thread that hands over the others
            pb_utils.Logger.log_error(f"{key[0]} was not counted: {traceback.format_exc()}")

    def _gauges(self, population: Population) -> Iterator[tuple[Key, float]]:
        for (task, kind), told in population.stability().items():
            labels = (("task", task), ("kind", kind), ("worker", self._worker))
            for name, value in zip(GAUGES, told, strict=True):
                yield (name, labels), value

    def _metric(self, key: Key) -> Any:
        if key not in self._metrics:
            self._metrics[key] = self._family(key[0]).Metric(labels=dict(key[1]))
        return self._metrics[key]

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.hand_over()

    def _family(self, name: str) -> Any:
        if name not in self._families:
            kind = pb_utils.MetricFamily.GAUGE if name in GAUGES else pb_utils.MetricFamily.COUNTER
            description = (COUNTERS | GAUGES)[name]
            self._families[name] = pb_utils.MetricFamily(name=name, description=description, kind=kind)
        return self._families[name]

    def _hand_over_regularly(self) -> None:
        while not self._closing.wait(self._period_s):
            self.hand_over()
