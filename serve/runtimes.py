"""What can compute the served network: a row a runtime, and nothing about one stands anywhere else.

docs/extending.md says how to add one. A runtime's libraries are imported when it is used and not before.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from serve.engines import Engine

if TYPE_CHECKING:
    from serve.export.built import Builder

DEFAULT_RUNTIME = "openvino"


class Runtime(NamedTuple):
    """How an engine file is built, found and run.

    Attributes:
        engine: `module:Class`, an Engine.
        file: the engine file's name in deploy/engine/1; runtimes that read the same file share it.
        builder: `module:function`, a Builder.
        precisions: of the matrix products, those that can be asked for; the first is the default.
        config: what --model-config-name must say for it; None: deploy/engine/config.pbtxt.
        call_cost: of one more call, in tokens of padding that take as long; inf where a call takes any batch as fast.
    """

    engine: str
    file: str
    builder: str
    precisions: tuple[str, ...]
    config: str | None
    call_cost: float


RUNTIMES = {
    "openvino": Runtime(
        engine="serve.engines.openvino:OpenVINOEngine",
        file="model.onnx",
        builder="serve.export.graph:build",
        precisions=("f32", "int8"),
        config="cpu",
        call_cost=50,  # measured: about 20 ms of 40 ms a product, full-size network, 2 cores
    ),
    "onnxruntime": Runtime(
        engine="serve.engines.onnxruntime:OnnxRuntimeEngine",
        file="model.onnx",
        builder="serve.export.graph:build",
        precisions=("f32",),
        config="onnxruntime",
        call_cost=50,
    ),
    "tensorrt": Runtime(
        engine="serve.engines.tensorrt:TensorRTEngine",
        file="model.plan",
        builder="serve.export.tensorrt:build",
        precisions=("f16", "bf16"),
        config=None,
        call_cost=float("inf"),
    ),
    "torch": Runtime(
        engine="serve.engines.torch:TorchEngine",
        file="model.pt2",
        builder="serve.export.torch_package:build",
        precisions=("auto", "bf16", "f32"),  # auto: bf16 on a GPU, f32 without one
        config="gpu-torch",
        call_cost=float("inf"),
    ),
}


def row_of(name: str) -> Runtime:
    """A runtime's row.

    Raises:
        ValueError: there is none.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime {name!r} is unknown, expected one of {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def engine_class(name: str) -> type[Engine]:
    """The class that runs a runtime's engine files.

    Raises:
        ValueError: unknown runtime, or a library that is not installed.
    """
    return _imported(name, row_of(name).engine)


def load_engine(name: str, path: Path, parameters: Mapping[str, str]) -> Engine:
    """Load an engine file.

    Raises:
        ValueError: as `engine_class`, or the file cannot be loaded; the message names it.
    """
    return engine_class(name)(path, parameters)


def builder(name: str) -> Builder:
    """The function that builds a runtime's engine file.

    Raises:
        ValueError: as `engine_class`.
    """
    return _imported(name, row_of(name).builder)


def _imported(name: str, place: str) -> Any:
    module, attribute = place.split(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(f"runtime {name} needs the package {error.name}, which is not installed here") from error


def server_words(deploy: Path, runtime: str) -> list[str]:
    """The command of a server over `deploy`: the one on the path, or that of this checkout's second environment."""
    server, config = shutil.which("tritonserver") or ".venv-serve/bin/tritonserver", RUNTIMES[runtime].config
    return [server, "--model-repository", f"{deploy}/", *([f"--model-config-name={config}"] if config else [])]
