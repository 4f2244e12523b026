"""Time per step of the ensemble, from the counters that Triton keeps for each model."""

from __future__ import annotations

from typing import Any

import tritonclient.grpc as triton

from client.protocol import MODEL

COMPUTE = ("compute_input", "compute_infer", "compute_output")
Counters = dict[str, dict[str, int]]


def counters(client: triton.InferenceServerClient) -> Counters:
    """Model -> its counters since the server started: calls and nanoseconds; the ensemble's steps in their order."""
    order = client.get_model_config(MODEL).config.ensemble_scheduling.step
    found: Counters = {step.model_name: {} for step in order}
    for model in client.get_inference_statistics().model_stats:
        if model.name not in found:
            continue
        stats = model.inference_stats
        now = {
            "calls": stats.success.count,
            "failed": stats.fail.count,
            "queue_ns": stats.queue.ns,
            "compute_ns": sum(getattr(stats, part).ns for part in COMPUTE),
            "rows": model.inference_count,
            "batches": model.execution_count,
        }
        before = found[model.name]  # versions of a model count together
        found[model.name] = {name: value + before.get(name, 0) for name, value in now.items()}
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
        more = {name: value - before[model].get(name, 0) for name, value in now.items()}
        if any(value < 0 for value in more.values()):
            raise ValueError(f"{model}: its counters ran backwards: the server was started again during the load")
        calls, batches = max(more.get("calls", 0), 1), max(more.get("batches", 0), 1)
        result[model] = {
            "queue_ms": round(more.get("queue_ns", 0) / calls / 1e6, 3),
            "compute_ms": round(more.get("compute_ns", 0) / calls / 1e6, 3),
            "batch": round(more.get("rows", 0) / batches, 2),
            "failed": more.get("failed", 0),
        }
    return result
