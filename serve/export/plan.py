"""An ONNX graph to a plan: strongly typed, one optimisation profile a title length.

The same code drives TensorRT, which builds for the GPU at hand, and TensorRT-RTX, which needs none to build: it
compiles when the engine is loaded.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cma_clip.files import write_atomically
from serve.engines.tensorrt import TensorRTEngine, library_version
from serve.export.built import Target

TensorRT = Any  # the module tensorrt or tensorrt_rtx: one API under two names
MODULES = {
    "tensorrt": "pip install tensorrt, or NVIDIA's image nvcr.io/nvidia/tensorrt:26.11-py3",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
# Batch sizes of each profile; the largest is max_batch_size in deploy/engine/config.pbtxt.
SMALLEST_BATCH, USUAL_BATCH, LARGEST_BATCH = 1, 16, 64
WORKSPACE_BYTES = 4 << 30

logger = logging.getLogger(__name__)


def import_tensorrt(module: str) -> TensorRT:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        ValueError: it is not installed, or there is no GPU where one is needed; the message says what to do.
    """
    try:
        trt = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"the package {module} is not installed here: {MODULES[module]}") from error
    check_gpu(trt)
    return trt


def check_gpu(trt: TensorRT) -> None:
    if not _is_rtx(trt) and not torch.cuda.is_available():
        raise ValueError("tensorrt builds on the GPU that will serve, and there is none here; tensorrt_rtx needs none")


def build_engine(
    trt: TensorRT,
    onnx_path: Path,
    plan: Path,
    lengths: Sequence[int],
    image_size: int,
    timing_cache: Path | None = None,
) -> Target:
    """Write the plan of a graph whose types are the wanted ones.

    Args:
        trt: from `import_tensorrt`.
        onnx_path: from `write_mixed`.
        lengths: title lengths to build profiles for, in the order of the profiles.
        image_size: side of the square pixels.
        timing_cache: TensorRT only: how fast kernels were here, kept from build to build; None keeps nothing.
    Raises:
        ValueError: the parser refuses the graph, or the build fails.
    """
    log = build_log(trt)
    builder = trt.Builder(log)
    network, parser = parse(trt, builder, log, onnx_path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 would have 10 bits of mantissa
    for length in lengths:
        add_profile(builder, config, length, image_size)
    # TensorRT-RTX measures no kernels while it builds; its counterpart is a cache beside the loaded engine.
    cache = None if _is_rtx(trt) else timing_cache
    if cache is not None:
        config.set_timing_cache(config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), False)
    serialized = builder.build_serialized_network(network, config)
    del parser  # not before: the weights that the network points to are its own
    if serialized is None:
        raise ValueError(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot build it: {log.last_error}")
    write_atomically(plan, bytes(serialized))
    if cache is not None:
        write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    gpu = () if _is_rtx(trt) else (torch.cuda.get_device_name(), TensorRTEngine.machine()[1])
    return Target({trt.__name__: library_version(trt)}, *gpu)


def parse(trt: TensorRT, builder: Any, log: Any, onnx_path: Path) -> tuple[Any, Any]:
    """The graph as a strongly typed network, and the parser, which owns the weights until the engine is built.

    Raises:
        ValueError: with the parser's first error.
    """
    flags = trt.NetworkDefinitionCreationFlag.__members__  # TensorRT 11 knows no other networks
    network = builder.create_network(1 << int(flags["STRONGLY_TYPED"]) if "STRONGLY_TYPED" in flags else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        error = parser.get_error(0)
        text = " ".join(error.desc().split())[:300]
        raise ValueError(f"{onnx_path}: {trt.__name__} refuses node {error.node_name()!r}: {text}")
    return network, parser


def add_profile(builder: Any, config: Any, length: int, image_size: int) -> None:
    """Titles of one length only, so that a captured CUDA graph of a batch size fits every such batch."""
    profile = builder.create_optimization_profile()
    tails = {"input_ids": (length,), "pixels": (image_size, image_size, 3), "present": (2,)}
    for name, tail in tails.items():
        profile.set_shape(name, *((batch, *tail) for batch in (SMALLEST_BATCH, USUAL_BATCH, LARGEST_BATCH)))
    config.add_optimization_profile(profile)


def _is_rtx(trt: TensorRT) -> bool:
    return trt.__name__ == "tensorrt_rtx"


def build_log(trt: TensorRT) -> Any:
    """TensorRT's messages as this module's log; the last error goes into the exception."""

    class Log(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.last_error = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last_error = " ".join(message.split())[:300]
                logger.info("%s", message)
            elif severity == trt.ILogger.Severity.WARNING:
                logger.info("%s", message)

    return Log()
