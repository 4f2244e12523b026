"""The network as one ONNX file with a dynamic batch and title length: served as it is, or made into other engines."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch

from model.bundle import Bundle
from serve.engines import INPUTS, OUTPUTS
from serve.export.built import Built, Candidate, Order
from serve.export.parity import random_inputs
from serve.runtimes import load_engine

OPSET = 20
# Where in the source each node comes from: paths of the machine that exports, which are nobody's business.
STACK_TRACE = "pkg.torch.onnx.stack_trace"


def build(order: Order) -> Built:
    """The ONNX file, for a runtime that reads it: judged in ONNX Runtime first, then in the one that will serve.

    Raises:
        ValueError: as `write_onnx` and `write_int8`.
    """
    runtime, path = order.runtime, order.path
    if order.precision == "int8":
        from serve.export.int8 import write_int8

        write_int8(order.bundle, path, order.data)
        return Built("int8", [Candidate(f"{runtime} int8", "int8", load_engine(runtime, path, {}))])
    write_onnx(order.bundle, path)
    engines = {name: load_engine(name, path, {}) for name in dict.fromkeys(("onnxruntime", runtime))}
    return Built("f32", [Candidate(f"{name} {run.precision}", run.precision, run) for name, run in engines.items()])


def write_onnx(bundle: Bundle, path: Path) -> None:
    """Write the network.

    Inputs: input_ids int32 [B, T], pixels uint8 [B, H, W, 3], present bool [B, 2].
    Outputs: logits float32 [B, C], text_share float32 [B, K].

    Raises:
        ValueError: onnx.checker refuses the graph.
    """
    with tracing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            bundle.network,
            example(bundle),
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=dynamic_shapes(bundle),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.pop(STACK_TRACE, None)
    program.save(path, external_data=False)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx.checker refuses the exported graph: {error}") from error


def example(bundle: Bundle) -> tuple[torch.Tensor, ...]:
    """Inputs to trace with: two products, so that no batch of one is baked into the graph."""
    return tuple(torch.from_numpy(array) for array in random_inputs(bundle.config, 2, 16, seed=0))


def dynamic_shapes(bundle: Bundle, largest_batch: int | None = None) -> tuple[dict[int, Any], ...]:
    """Which dimensions of the three inputs may vary, for torch.export."""
    batch = torch.export.Dim("batch", min=1, max=largest_batch)
    length = torch.export.Dim("length", min=2, max=bundle.config.preprocess.context_length)
    return {0: batch, 1: length}, {0: batch}, {0: batch}


@contextmanager
def tracing() -> Iterator[None]:
    """Without the attention's fused operator, which has no counterpart outside eager torch, and without chatter."""
    fastpath, optimizer = torch.backends.mha.get_fastpath_enabled(), logging.getLogger("onnxscript.optimizer")
    torch.backends.mha.set_fastpath_enabled(False)
    level = optimizer.level
    optimizer.setLevel(logging.ERROR)  # it warns of each operator that it leaves as it is
    try:
        yield
    finally:
        optimizer.setLevel(level)
        torch.backends.mha.set_fastpath_enabled(fastpath)
