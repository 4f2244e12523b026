"""A step that answers each request when it is ready: nobody waits for a slow one but its own caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from cma_clip.machine import usable_cores
from serve.engine_pace import Ahead, pace_file
from serve.step import RequestCancelledError, TritonStep
from serve.work import Work
from serve.work_queue import WorkQueue

URGENT = "canary"  # the id of a request that passes the queue; client.canary sends it
# As Triton's own queues say it, so that callers do the same about both.
FULL = "Exceeds maximum queue size"


class QueuedStep(TritonStep):
    """Base of a step with a WorkQueue. Its config.pbtxt's parameters say `max_wait_ms` and `max_memory_mb`."""

    def work(self, *inputs: Any) -> Work:
        """What one request's inputs will cost, told without doing it.

        Raises:
            Refusal: of this request.
        """
        raise NotImplementedError

    def open_queue(self) -> None:
        """Raises ValueError where a parameter is missing or no number."""
        try:
            wait_ms, memory_mb = (int(self.parameters[name]) for name in ("max_wait_ms", "max_memory_mb"))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"config.pbtxt of {self.name}: parameters max_wait_ms and max_memory_mb: {error}"
            ) from None
        self.ahead = Ahead(pace_file())
        self.queue = WorkQueue(usable_cores(), wait_ms / 1000, memory_mb << 20, self.ahead.is_full)
        self.metrics.add("cma_clip_shed_total", 0, step=self.name)
        self.metrics.add("cma_clip_wait_us_total", 0, step=self.name)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Takes in or refuses each request; the answers follow through their senders."""
        refused = [self.attempt(self._take_in, request) for request in requests]
        return [None if error is None else self.respond(error) for error in refused]

    def finalize(self) -> None:
        self.queue.close()
        super().finalize()

    def _take_in(self, request: Any) -> Any:
        """The error of a request that is shed; None where it waits for its turn."""
        urgent = request.request_id() == URGENT
        if reason := self.queue.full(urgent):  # nothing of it has been read
            return self._shed(reason)
        inputs = self.read(request)
        work, sender = self.work(*inputs), request.get_response_sender()

        def run(waited_s: float) -> bool:
            self.metrics.add("cma_clip_wait_us_total", 1e6 * waited_s, step=self.name)
            outcome = self.attempt(self._answer, request, inputs)
            failed = isinstance(outcome, pb_utils.TritonError)
            if not failed:
                self.ahead.add()
            self._send(sender, outcome)
            return not failed

        self.queue.put(run, work, urgent)
        return None

    def _shed(self, reason: str) -> Any:
        self.metrics.add("cma_clip_shed_total", step=self.name)
        return pb_utils.TritonError(f"{FULL}: {reason}", pb_utils.TritonError.UNAVAILABLE)

    def _answer(self, request: Any, inputs: Any) -> Any:
        def still_wanted() -> None:
            if request.is_cancelled():
                raise RequestCancelledError

        still_wanted()
        return self.answer(*inputs, still_wanted=still_wanted)

    def _send(self, sender: Any, outcome: Any) -> None:
        """A caller that has gone, or a server that stops, must not end the thread."""
        try:
            sender.send(self.respond(outcome), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        except Exception as error:
            pb_utils.Logger.log_error(f"{self.name}: an answer could not be sent: {error}")
