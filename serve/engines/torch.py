"""An AOTInductor package: the network compiled by torch ahead of time, with the fused kernels in it on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch._inductor
from torch import Tensor

LARGEST_BATCH = 64
PARAMETERS = ("device", "gpu", "threads")


class TorchEngine:
    """The compiled network, on the device that it was compiled for.

    Args:
        path: .pt2 file of serve.export.torch_package.
        parameters: `device`: `auto`, the default, is what the package was compiled for; `cuda:1` picks a GPU.
            `gpu`: number of the one that auto means for a package that was compiled for a GPU.
            `threads`: of a package for the CPU; by default a thread a core.
    Raises:
        ValueError: an unknown parameter or value, another device than the package's, or torch cannot load it.
    """

    def __init__(self, path: Path, parameters: Mapping[str, str]) -> None:
        if unknown := sorted(set(parameters) - set(PARAMETERS)):
            raise ValueError(f"parameters {unknown} are unknown to the torch runtime, it has {list(PARAMETERS)}")
        wanted, threads = parameters.get("device", "auto"), parameters.get("threads", "auto")
        if threads != "auto":
            if not threads.isdecimal() or int(threads) < 1:
                raise ValueError(f"parameter threads is {threads!r}, expected auto or a number from 1")
            torch.set_num_threads(int(threads))
        try:
            metadata = torch._C._aoti.AOTIModelPackageLoader.load_metadata_from_package(str(path), "model")  # type: ignore[attr-defined]
            built, self.precision = metadata["AOTI_DEVICE_KEY"], metadata["precision"]
            instance = f"cuda:{parameters['gpu']}" if "gpu" in parameters and built == "cuda" else built
            self.device = torch.device(instance if wanted == "auto" else wanted)
            if self.device.type != built:
                raise ValueError(f"{path}: compiled for {built}, but parameter device is {wanted!r}")
            index = -1 if self.device.index is None else self.device.index
            # One thread at a time calls it: what guards several would only cost.
            self.model = torch._inductor.aoti_load_package(str(path), run_single_threaded=True, device_index=index)
        except RuntimeError as error:
            raise ValueError(f"{path}: torch cannot load it: {' '.join(str(error).split())[:300]}") from error
        self.stream: torch.cuda.Stream | None = None
        if built == "cuda":
            self.stream = torch.cuda.Stream(self.device)
            torch.cuda.synchronize(self.device)  # the weights are there before another stream reads them

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(inputs[0]) > LARGEST_BATCH:
            raise ValueError(f"a batch of {len(inputs[0])}, the package takes at most {LARGEST_BATCH}")
        # The compiled code reads memory as it was told to, whatever the dtype and the strides.
        arrays = zip(inputs, (np.int32, np.uint8, np.bool_), strict=True)
        tensors = [torch.from_numpy(np.ascontiguousarray(array, dtype)) for array, dtype in arrays]
        if self.stream is None:
            logits, text_share = self.model(*tensors)
        else:
            with torch.cuda.stream(self.stream):
                outputs = self.model(*(tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors))
                logits, text_share = map(_to_host, outputs)
            self.stream.synchronize()
        return logits.numpy(), text_share.numpy()

    @staticmethod
    def machine() -> tuple[dict[str, str], str | None]:
        if not torch.cuda.is_available():
            return versions("cpu"), None
        major, minor = torch.cuda.get_device_capability()
        return versions("cpu"), f"{major}.{minor}"


def versions(device: str) -> dict[str, str]:
    """What must be the same where a package is built and where it is loaded; all of it with `cpu`."""
    libraries = {"torch": str(torch.__version__)}
    return libraries | {"cpu": torch.backends.cpu.get_cpu_capability()} if device == "cpu" else libraries


def _to_host(tensor: Tensor) -> Tensor:
    """A copy that is under way when this returns."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
