"""ONNX Runtime on the CPU, float32: for machines that OpenVINO does not support, and its rival in benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from cma_clip.machine import usable_cores
from serve.engines import INPUTS, OUTPUTS


class OnnxRuntimeEngine:
    """The network in an ONNX Runtime session.

    Args:
        path: ONNX file.
        parameters: none are known.
    Raises:
        ValueError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but this
            raise ValueError(f"{path}: ONNX Runtime cannot load it: {' '.join(str(error).split())[:300]}") from error
        self.precision = "f32"

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, text_share = self.session.run(OUTPUTS, dict(zip(INPUTS, inputs, strict=True)))
        return logits, text_share

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        return {"onnxruntime": onnxruntime.__version__}, None
