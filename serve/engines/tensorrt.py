"""A TensorRT or TensorRT-RTX plan on a GPU. Triton serves a plan by its own backend; this runs it to judge it."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from serve.engines import INPUTS, OUTPUTS


class TensorRTEngine:
    """A deserialised plan with one execution context for each of its profiles.

    Args:
        path: plan from `serve.export.tensorrt`.
        parameters: `module`: `tensorrt` (default) or `tensorrt_rtx`; `precision`: what it was built with.
    Raises:
        ValueError: no GPU, the library is missing or of another version, or the plan is for another GPU.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        module = parameters.get("module", "tensorrt")
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        if not torch.cuda.is_available():
            raise ValueError(f"{path}: a TensorRT plan runs on a GPU, and there is none here")
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"{path}: the package {module} is not installed here")
        trt: Any = importlib.import_module(module)
        self.runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self.engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if self.engine is None:
            raise ValueError(f"{path}: {module} {trt.__version__} cannot load it on {torch.cuda.get_device_name()}")
        names = [self.engine.get_tensor_name(index) for index in range(self.engine.num_io_tensors)]
        self.outputs = [name for name in names if name not in INPUTS]
        self.lengths = [self.length_of(profile) for profile in range(self.engine.num_optimization_profiles)]
        self.stream = torch.cuda.Stream()
        self.contexts = [self.engine.create_execution_context() for _ in self.lengths]
        for profile, context in enumerate(self.contexts):
            context.set_optimization_profile_async(profile, self.stream.cuda_stream)
        self.precision = parameters.get("precision", "f16")

    def length_of(self, profile: int) -> int:
        """The title length that a profile is for."""
        smallest, _, _ = self.engine.get_tensor_profile_shape("input_ids", profile)
        return smallest[1]

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        outputs = self.run(dict(zip(INPUTS, inputs, strict=True)))
        logits, text_share = (outputs[name] for name in OUTPUTS)
        return logits, text_share

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs, by name.

        Raises:
            ValueError: no profile for titles of this length.
        """
        context = self.contexts[choose_profile(self.lengths, inputs["input_ids"].shape[1])]
        on_gpu = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in inputs.items()}
        self.stream.wait_stream(torch.cuda.current_stream())
        for name, tensor in on_gpu.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name in self.outputs:  # all are float32, whatever the products are computed in
            outputs[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
            context.set_tensor_address(name, outputs[name].data_ptr())
        if not context.execute_async_v3(self.stream.cuda_stream):
            raise RuntimeError("TensorRT could not start the network; its log says why")
        self.stream.synchronize()
        return {name: tensor.cpu().numpy() for name, tensor in outputs.items()}

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        modules = (name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name))
        versions = {name: library_version(importlib.import_module(name)) for name in modules}
        if not torch.cuda.is_available():
            return versions, None
        return versions, "{}.{}".format(*torch.cuda.get_device_capability())


def library_version(trt: Any) -> str:
    """Such as 10.14.1.48: the library's own four numbers, without the package's `.post1`."""
    numbers = re.match(r"\d+(\.\d+){1,3}", trt.__version__)
    assert numbers
    return numbers.group()


def choose_profile(lengths: list[int], length: int) -> int:
    """The profile for titles of a length: each takes one only.

    Raises:
        ValueError: there is none.
    """
    if length not in lengths:
        raise ValueError(f"input_ids: titles of {length} ids, the plan has profiles for {lengths}; pad to one of them")
    return lengths.index(length)
