"""What computes the network behind the served path: one module a runtime, all called alike."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

# B batch, T token ids, H and W image size, C labels of all tasks, K tasks

INPUTS = ("input_ids", "pixels", "present")
OUTPUTS = ("logits", "text_share")
CLASSES = {
    "openvino": "OpenVINOEngine",
    "onnxruntime": "OnnxRuntimeEngine",
    "torch": "TorchEngine",
    "tensorrt": "TensorRTEngine",
}
# Engine file of each runtime in deploy/engine/1.
FILES = {"openvino": "model.onnx", "onnxruntime": "model.onnx", "torch": "model.pt2", "tensorrt": "model.plan"}
# What serve.export calls the runtime whose file another one reads too.
EXPORTED_AS = {"onnxruntime": "openvino"}


class Engine(Protocol):
    """A loaded engine file.

    FILE: its name in deploy/engine/1.
    CALL_COST: what one more call costs, in tokens of padding that take as long.
    precision: of its matrix products, as in EngineStamp.
    """

    FILE: str
    CALL_COST: float
    precision: str

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None: ...

    def __call__(
        self, input_ids_BT: np.ndarray, pixels_BHW3: np.ndarray, present_B2: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns logits float32 [B, C] and text_share float32 [B, K]."""

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        """Versions of the libraries an engine depends on, and the GPU's compute capability."""


def engine_class(runtime: str) -> type[Engine]:
    """The class that runs a runtime's engine files; its libraries are imported here and not before.

    Raises:
        ValueError: unknown runtime, or a library that is not installed.
    """
    if runtime not in CLASSES:
        raise ValueError(f"runtime {runtime!r} is unknown, expected one of {', '.join(CLASSES)}")
    try:
        module = importlib.import_module(f"serve.engines.{runtime}")
    except ModuleNotFoundError as error:
        raise ValueError(f"runtime {runtime} needs the package {error.name}, which is not installed here") from error
    return getattr(module, CLASSES[runtime])


def load_engine(runtime: str, path: Path, parameters: Mapping[str, str]) -> Engine:
    """Load an engine file.

    Raises:
        ValueError: as `engine_class`, or the file cannot be loaded; the message names it.
    """
    return engine_class(runtime)(path, parameters)
