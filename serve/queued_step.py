"""A step that answers each request when it is ready: nobody waits for a slow one but its own caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from cma_clip.machine import usable_cores
from serve.batching import Arrays
from serve.engine_pace import SPEAKERS, Ahead, pace_file
from serve.step import URGENT, Outcome, RequestCancelledError, TritonStep
from serve.work import Work
from serve.work_queue import WorkQueue

# As Triton's own queues say it, so that callers do the same about both.
FULL, LATE = "Exceeds maximum queue size", "Request timeout expired"
PARAMETERS = ("max_queue_size", "max_wait_ms", "timeout_ms", "max_memory_mb")
# Units of work, at most a few milliseconds, that are done at once: to hand them to a thread and the answer back to the
# server by itself costs as much.
CHEAP = 500_000
# Before refusals are answered, seconds: so that the next ones gather, because it is the batch that costs and not the
# refusal (measured: at three times capacity 0.6 of it go on being answered, without the pause 0.4).
SHED_PAUSE_S = 0.01


class QueuedStep(TritonStep):
    """Base of a step with a WorkQueue, whose limits are its config.pbtxt's PARAMETERS."""

    def inspect(self, *inputs: Any) -> tuple[Work, tuple[Any, ...]]:
        """What one request's inputs will cost, and what `answer` is to be given for them.

        Raises:
            Refusal: of this request.
        """
        raise NotImplementedError

    def open_queue(self) -> None:
        """Raises ValueError where a parameter is missing or no number."""
        try:
            size, wait_ms, timeout_ms, memory_mb = (int(self.parameters[name]) for name in PARAMETERS)
        except (KeyError, ValueError) as error:
            raise ValueError(f"config.pbtxt of {self.name}: parameters {', '.join(PARAMETERS)}: {error}") from None
        self.timeout_s, self.shed = timeout_ms / 1000, 0
        self.ahead = Ahead([pace_file(self.set.name(step)) for step in SPEAKERS])
        self.queue = WorkQueue(
            usable_cores(), size, wait_ms / 1000, memory_mb << 20, self.ahead.is_full, self.ahead.wait_s
        )
        self.metrics.add("cma_clip_shed_total", 0, step=self.name)
        self.metrics.add("cma_clip_wait_us_total", 0, step=self.name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers, takes in or refuses each request; the answers of those taken in follow through their senders."""
        shed_before = self.shed
        outcomes = [self.attempt(self._take_in, request) for request in requests]
        if self.shed > shed_before:
            time.sleep(SHED_PAUSE_S)
        return [None if outcome is None else self.respond(outcome) for outcome in outcomes]

    def finalize(self) -> None:
        self.queue.close()
        super().finalize()

    def _take_in(self, request: Any) -> Outcome | None:
        """Outputs or the error of a request; None where it waits for its turn."""
        urgent = request.request_id() == URGENT
        if reason := self.queue.full(urgent):  # nothing of it has been read
            self.shed += 1
            self.metrics.add("cma_clip_shed_total", step=self.name)
            return pb_utils.TritonError(f"{FULL}: {reason}", pb_utils.TritonError.UNAVAILABLE)
        work, inputs = self.inspect(*self.read(request))
        if work.units <= CHEAP and self.queue.is_its_turn(work):
            return self._answer(inputs)
        sender = request.get_response_sender()

        def run(waited_s: float) -> bool:
            self.metrics.add("cma_clip_wait_us_total", 1e6 * waited_s, step=self.name)
            if waited_s > self.timeout_s:
                outcome = pb_utils.TritonError(LATE, pb_utils.TritonError.UNAVAILABLE)
            else:
                outcome = self.attempt(self._answer, inputs, request.is_cancelled)
            self._send(sender, outcome)
            return not isinstance(outcome, pb_utils.TritonError)

        self.queue.put(run, work, urgent)
        return None

    def _answer(self, inputs: tuple[Any, ...], given_up: Callable[[], bool] = lambda: False) -> Arrays:
        def still_wanted() -> None:
            if given_up():
                raise RequestCancelledError

        outputs = self.answer(*inputs, still_wanted=still_wanted)
        self.ahead.add()
        return outputs

    def _send(self, sender: Any, outcome: Outcome) -> None:
        """A caller that has gone, or a server that stops, must not end the thread."""
        try:
            sender.send(self.respond(outcome), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:
            pb_utils.Logger.log_error(f"{self.name}: an answer could not be sent: {error}")
