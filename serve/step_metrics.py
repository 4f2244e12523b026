"""Counters of a python step on the server's metrics page, beside Triton's own."""

from __future__ import annotations

import math
import threading
import traceback
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import triton_python_backend_utils as pb_utils

# A counter's name and its labels.
Key = tuple[str, tuple[tuple[str, str], ...]]
COUNTERS = {
    "cma_clip_refusals_total": "Requests refused as the caller's fault, by code",
    "cma_clip_shed_total": "Requests refused because too much work waits, by step",
    "cma_clip_wait_us_total": "Microseconds that requests waited in a step's own queue, by step",
    "cma_clip_incidents_total": "Requests failed by an unforeseen error, by step",
    "cma_clip_not_finite_total": "Requests failed because the engine's logits or text share are no finite numbers",
    "cma_clip_not_counted_total": "Amounts that no counter can take (below 0, not finite), by counter",
    "cma_clip_answers_total": "Labels answered, by task, label and whether it was accepted",
    "cma_clip_score_sum": "Sum of the best scores, by task; divide by cma_clip_text_share_count",
    "cma_clip_text_share_sum": "Sum of the text shares (lambda), by task",
    "cma_clip_text_share_count": "Products answered, by task",
}


class StepMetrics:
    """Adds up in this process and hands over once a period: each hand-over is a message to the server.

    Args:
        period_s: seconds between two hand-overs.
    """

    def __init__(self, period_s: float = 1.0) -> None:
        self._pending: defaultdict[Key, float] = defaultdict(float)
        self._families: dict[str, Any] = {}
        self._metrics: dict[Key, Any] = {}
        self._lock, self._closing, self._period_s = threading.Lock(), threading.Event(), period_s
        self._thread = threading.Thread(target=self._hand_over_regularly, daemon=True)
        self._thread.start()

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Increase one of COUNTERS; what no counter can take (below 0, not finite) is left out, and that is counted."""
        if not 0 <= amount < math.inf:
            name, amount, labels = "cma_clip_not_counted_total", 1.0, {"counter": name}
        key = name, tuple(labels.items())
        with self._lock:
            self._pending[key] += amount

    def count(self, answer: Mapping[str, Mapping[str, Any]]) -> None:
        """A product's answer as a dashboard shows it: the mix of labels, mean score and mean λ of each task.

        Args:
            answer: task -> labels, accepted, top, text_share, as PREDICTION has them.
        """
        for task, said in answer.items():
            taken = said.get("accepted_labels", said["labels"] if said["accepted"] else [])
            for label in said["labels"]:
                self.add("cma_clip_answers_total", task=task, label=label, accepted=str(label in taken).lower())
            self.add("cma_clip_score_sum", said["top"][0][1], task=task)
            self.add("cma_clip_text_share_sum", said["text_share"], task=task)
            self.add("cma_clip_text_share_count", task=task)

    def hand_over(self) -> None:
        """Give the server what was added since the last time."""
        with self._lock:
            pending, self._pending = self._pending, defaultdict(float)
        for key, amount in pending.items():
            try:
                self._increase(key, amount)
            except Exception:  # a counter may not end the thread that hands over the others
                pb_utils.Logger.log_error(f"{key[0]} was not counted: {traceback.format_exc()}")

    def _increase(self, key: Key, amount: float) -> None:
        if key not in self._metrics:
            self._metrics[key] = self._family(key[0]).Metric(labels=dict(key[1]))
        self._metrics[key].increment(amount)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self.hand_over()

    def _family(self, name: str) -> Any:
        if name not in self._families:
            kind = pb_utils.MetricFamily.COUNTER
            self._families[name] = pb_utils.MetricFamily(name=name, description=COUNTERS[name], kind=kind)
        return self._families[name]

    def _hand_over_regularly(self) -> None:
        while not self._closing.wait(self._period_s):
            self.hand_over()
