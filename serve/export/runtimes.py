"""How the engine file of each runtime is built, and what of it is compared with torch before it is published."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from model.bundle import Bundle
from serve.engines import load_engine
from serve.export.graph import write_onnx
from serve.export.parity import Run

# The precisions that can be asked for; the first is a runtime's own.
RUNTIMES = {"openvino": ("f32", "int8"), "tensorrt": ("f16", "bf16"), "torch": ("bf16", "f32")}


class Candidate(NamedTuple):
    """An engine to be compared with torch before its file is published.

    name: what the report calls it.
    precision: of its matrix products.
    run: the engine.
    lengths: title lengths that it takes; () is any.
    where: names the first layer that goes wrong; asked for only if the comparison fails.
    """

    name: str
    precision: str
    run: Run
    lengths: Sequence[int] = ()
    where: Callable[[], str] | None = None


class Built(NamedTuple):
    """An engine file that has been written.

    precision, versions, gpu, compute_capability: as in EngineStamp.
    candidates: the last is what will serve; it is compared on a data set's products too.
    """

    file: Path
    precision: str
    candidates: list[Candidate]
    versions: dict[str, str] = {}
    gpu: str | None = None
    compute_capability: str | None = None


Builder = Callable[[Bundle, Path, str | None, Path | None], Built]


def builder(runtime: str, precision: str | None) -> Builder:
    """The function that builds a runtime's engine file.

    Raises:
        ValueError: there is no such runtime, or it has no such precision.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"--runtime {runtime}: expected one of {', '.join(RUNTIMES)}")
    if precision is not None and precision not in RUNTIMES[runtime]:
        raise ValueError(f"--precision {precision}: {runtime} has {', '.join(RUNTIMES[runtime])}")
    return {"openvino": _build_openvino, "tensorrt": _build_tensorrt, "torch": _build_torch}[runtime]


def _build_openvino(bundle: Bundle, folder: Path, precision: str | None, data: Path | None) -> Built:
    """The ONNX file as it is: the graph is judged in ONNX Runtime, OpenVINO in the precision that it takes here."""
    path = folder / "model.onnx"
    if precision == "int8":
        return _build_int8(bundle, path, data)
    write_onnx(bundle, path)
    graph, served = load_engine("onnxruntime", path, {}), load_engine("openvino", path, {})
    candidates = [Candidate("onnxruntime f32", "f32", graph)]
    return Built(path, "f32", [*candidates, Candidate(f"openvino {served.precision}", served.precision, served)])


def _build_int8(bundle: Bundle, path: Path, data: Path | None) -> Built:
    if data is None:
        raise ValueError("--precision int8 needs --data: a data set to calibrate on and to measure the drift on")
    from serve.export.int8 import quantize

    exact = path.with_name("exact.onnx")
    write_onnx(bundle, exact)
    quantize(bundle, exact, path, data)
    exact.unlink()
    served = load_engine("openvino", path, {})
    return Built(path, "int8", [Candidate("openvino int8", "int8", served)])


def _build_tensorrt(bundle: Bundle, folder: Path, precision: str | None, data: Path | None) -> Built:
    from serve.export.tensorrt import build_plan, first_wrong_layer

    precision, path = precision or RUNTIMES["tensorrt"][0], folder / "model.plan"
    lengths = bundle.config.preprocess.title_lengths
    served = text_format.Parse((folder.parent / "config.pbtxt").read_text(), ModelConfig()).instance_group[0].profile
    if len(served) != len(lengths):  # titles of the lengths left over would fail, one by one
        raise ValueError(
            f"{folder.parent}/config.pbtxt serves {len(served)} profiles, the bundle has {len(lengths)} title lengths:"
            f" list as many under instance_group"
        )
    # Beside the models: the version folder is replaced by each export.
    target = build_plan(bundle, path, precision, timing_cache=folder.parents[1] / "model.plan.timing")
    run = load_engine("tensorrt", path, {"precision": precision})
    where = functools.partial(first_wrong_layer, bundle, precision)
    return Built(path, precision, [Candidate(f"tensorrt {precision}", precision, run, lengths, where)], *target)


def _build_torch(bundle: Bundle, folder: Path, precision: str | None, data: Path | None) -> Built:
    import torch

    from serve.export.torch_package import PRECISIONS, build_package

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision, path = precision or PRECISIONS[device], folder / "model.pt2"
    versions = build_package(bundle, path, device, precision)
    engine = load_engine("torch", path, {})
    gpu, capability = (torch.cuda.get_device_name(), engine.machine()[1]) if device == "cuda" else (None, None)
    return Built(path, precision, [Candidate(f"torch {precision}", precision, engine)], versions, gpu, capability)
