"""OpenVINO on the CPU: reads the ONNX file as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cma_clip.machine import usable_cores
from serve.engines import INPUTS, OUTPUTS

# Its telemetry calls home from a forked copy of the process, which can hang and outlive the server.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
import openvino  # noqa: E402


class OpenVINOEngine:
    """The network compiled for this machine's CPU.

    Args:
        path: ONNX file.
        parameters: OpenVINO properties. By default there is a thread a core. INFERENCE_PRECISION_HINT `auto` is bf16
            where the CPU multiplies it in hardware (AMX, AVX512-BF16), f32 elsewhere, and for a network with a wide
            part: its statistics do not survive bf16, and OpenVINO has one precision for all of a network.
    Raises:
        ValueError: OpenVINO cannot compile the file.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        core = openvino.Core()
        properties = {"INFERENCE_NUM_THREADS": str(usable_cores())} | dict(parameters)
        try:
            graph = core.read_model(path)
            if properties.get("INFERENCE_PRECISION_HINT", "auto") == "auto":
                properties["INFERENCE_PRECISION_HINT"] = "f32" if has_wide_part(graph) else fastest_precision(core)
            self.model = core.compile_model(graph, "CPU", properties)
        except RuntimeError as error:
            raise ValueError(f"{path}: OpenVINO cannot load it: {' '.join(str(error).split())[:300]}") from error
        self.precision = properties["INFERENCE_PRECISION_HINT"]

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        results = self.model(dict(zip(INPUTS, inputs, strict=True)))
        logits, text_share = (results[name] for name in OUTPUTS)
        return logits, text_share

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        return {"openvino": openvino.__version__}, None


def has_wide_part(graph: openvino.Model) -> bool:
    """Its weights have the names that they have in the network."""
    return any(name.startswith("wide.") for op in graph.get_ops() for out in op.outputs() for name in out.get_names())


def fastest_precision(core: openvino.Core) -> str:
    """`bf16` where the CPU has it and oneDNN may use it: OpenVINO does not ask what ONEDNN_MAX_CPU_ISA allows."""
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    may = allowed in ("DEFAULT", "ALL", "") or any(part in allowed for part in ("BF16", "FP16", "AMX", "AVX10"))
    return "bf16" if may and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
