"""Time per step of the ensemble, from the counters that Triton keeps for each model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import tritonclient.grpc as triton

from client.protocol import MODEL

COMPUTE = ("compute_input", "compute_infer", "compute_output")
Counters = dict[str, Counter[str]]


def counters(client: triton.InferenceServerClient) -> Counters:
    """Model -> its counters since the server started: calls and nanoseconds; the ensemble's steps in their order."""
    order = client.get_model_config(MODEL).config.ensemble_scheduling.step
    found: Counters = {step.model_name: Counter() for step in order}
    for model in client.get_inference_statistics().model_stats:
        if model.name in found:
            stats = model.inference_stats
            found[model.name].update(  # versions of a model count together
                calls=stats.success.count,
                failed=stats.fail.count,
                queue_ns=stats.queue.ns,
                compute_ns=sum(getattr(stats, part).ns for part in COMPUTE),
                rows=model.inference_count,
                batches=model.execution_count,
            )
    return found


def spent(before: Counters, after: Counters) -> dict[str, dict[str, Any]]:
    """Between two readings, per step: mean queue_ms and compute_ms of a call, mean batch, failed calls.

    A call's compute time is that of the whole batch it was in, so a call's latency is about the sum over
    queue and compute of all steps.

    Raises:
        ValueError: the counters ran backwards: the server was started again in between.
    """
    result = {}
    for model, now in after.items():
        more = Counter(now)
        more.subtract(before[model])
        if any(value < 0 for value in more.values()):
            raise ValueError(f"{model}: its counters ran backwards: the server was started again during the load")
        calls = max(more["calls"], 1)
        result[model] = {
            "queue_ms": round(more["queue_ns"] / calls / 1e6, 3),
            "compute_ms": round(more["compute_ns"] / calls / 1e6, 3),
            "batch": round(more["rows"] / max(more["batches"], 1), 2),
            "failed": more["failed"],
        }
    return result
