"""Bundle to a TensorRT plan: strongly typed, one optimisation profile a title length, the same code for TensorRT-RTX.

TensorRT builds for the GPU at hand. TensorRT-RTX needs none to build: it compiles when the engine is loaded.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from cma_clip.files import write_atomically
from model.bundle import Bundle, load_bundle
from model.config import PreprocessConfig
from serve.engines import INPUTS
from serve.engines.tensorrt import TensorRTEngine, library_version
from serve.export.bisect import Arrays, first_deviation
from serve.export.graph import write_onnx
from serve.export.mixed_precision import TYPES, write_mixed
from serve.export.parity import random_inputs

TensorRT = Any  # the module tensorrt or tensorrt_rtx: one API under two names
MODULES = {
    "tensorrt": "pip install tensorrt, or NVIDIA's image nvcr.io/nvidia/tensorrt:26.11-py3",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
# Batch sizes of each profile; the largest is max_batch_size in deploy/engine/config.pbtxt.
SMALLEST_BATCH, USUAL_BATCH, LARGEST_BATCH = 1, 16, 64
WORKSPACE_BYTES = 4 << 30
# Of a layer's largest value; sound engines stay below a third of it.
LAYER_LIMITS = {"f16": 0.02, "bf16": 0.1}

logger = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where a plan runs; what EngineStamp keeps.

    versions: the library's name and version, which must be the same where the plan is loaded.
    gpu, compute_capability: of the GPU that it was built for; both None if it runs on several kinds.
    """

    versions: dict[str, str]
    gpu: str | None
    compute_capability: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serve.export.tensorrt", description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument("--output", type=Path, default=Path("model.plan"), help="nothing is published into deploy/")
    parser.add_argument("--module", choices=list(MODULES), default="tensorrt")
    parser.add_argument("--precision", choices=list(TYPES), default="f16", help="of the matrix products")
    parser.add_argument("--title-lengths", type=int, nargs="+", help="only these profiles (all of the bundle's)")
    parser.add_argument("--compute-capability", help="tensorrt_rtx: only for such GPUs, as in 8.9 (8.6 and later)")
    parser.add_argument("--any-gpu", action="store_true", help="tensorrt: for all GPUs from Ampere on, slower")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        target = build_plan(
            load_bundle(args.bundle),
            args.output,
            args.precision,
            args.module,
            lengths=args.title_lengths,
            compute_capability=args.compute_capability,
            any_gpu=args.any_gpu,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    versions = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    gpu = f"{target.gpu or 'GPUs'} of compute capability {target.compute_capability}"
    where = gpu if target.compute_capability else "several kinds of GPUs"
    print(f"{args.output}: {args.output.stat().st_size >> 20} MiB, {args.precision}, {versions}, for {where}")
    return 0


def build_plan(bundle: Bundle, plan: Path, precision: str, module: str = "tensorrt", **options: Any) -> Target:
    """Write the bundle's network as a plan, by way of a float32 and a mixed-precision ONNX graph.

    Args:
        precision: `f16` or `bf16`.
        options: of `build_engine`.
    Raises:
        ValueError: as `build_engine` and `write_mixed`.
    """
    trt = import_tensorrt(module)  # before the minutes of work
    with tempfile.TemporaryDirectory() as folder:
        whole, mixed = Path(folder, "model.onnx"), Path(folder, "mixed.onnx")
        write_onnx(bundle, whole)
        write_mixed(whole, mixed, precision)
        return build_engine(trt, mixed, plan, bundle.config.preprocess, **options)


def first_wrong_layer(bundle: Bundle, precision: str, module: str = "tensorrt") -> str:
    """Which layer's values leave those of the float32 graph first, as words for an error message."""
    trt, preprocess = import_tensorrt(module), bundle.config.preprocess
    length, limit = preprocess.title_lengths[0], LAYER_LIMITS[precision]

    def candidate(onnx_path: Path, inputs: Arrays) -> Arrays:
        mixed, plan = onnx_path.with_name("mixed.onnx"), onnx_path.with_name("model.plan")
        write_mixed(onnx_path, mixed, precision)
        build_engine(trt, mixed, plan, preprocess, lengths=[length])
        return TensorRTEngine(plan, {"module": module, "precision": precision}).run(inputs)

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(bundle, Path(folder, "model.onnx"))
        inputs = dict(zip(INPUTS, random_inputs(bundle.config, 3, length, seed=0), strict=True))
        found = first_deviation(Path(folder, "model.onnx"), inputs, candidate, limit)
    if found is None:
        return f"no layer by itself is off by more than {limit:.0%} of its largest value"
    return f"the first layer off by more than {limit:.0%} of its largest value is {found.layer} ({found.error:.2g})"


def import_tensorrt(module: str) -> TensorRT:
    """The module `tensorrt` or `tensorrt_rtx`.

    Raises:
        ValueError: it is not installed; the message says how to.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"the package {module} is not installed here: {MODULES[module]}") from error


def build_engine(
    trt: TensorRT,
    onnx_path: Path,
    plan: Path,
    preprocess: PreprocessConfig,
    *,
    lengths: Sequence[int] | None = None,
    compute_capability: str | None = None,
    any_gpu: bool = False,
    timing_cache: Path | None = None,
) -> Target:
    """Write the plan of a graph whose types are the wanted ones.

    Args:
        trt: from `import_tensorrt`.
        onnx_path: from `write_mixed`.
        lengths: title lengths to build profiles for; None is all of `preprocess.title_lengths`, in their order.
        compute_capability: TensorRT-RTX only: build for GPUs of this one alone, such as `8.9`.
        any_gpu: TensorRT only: for every GPU from Ampere on instead of this machine's.
        timing_cache: how fast kernels were here, kept from build to build; None is PLAN.timing.
    Raises:
        ValueError: the parser refuses the graph, the build fails, there is no GPU where one is needed, or an
            option of the other library is given.
    """
    log = _log(trt)
    builder = _builder(trt, log)
    network, parser = parse(trt, builder, log, onnx_path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; float32 would have 10 bits of mantissa
    config.progress_monitor = _progress(trt)
    for length in lengths or preprocess.title_lengths:
        add_profile(builder, config, length, preprocess.image_size)
    target = _set_target(trt, config, compute_capability, any_gpu)
    # TensorRT-RTX measures no kernels while it builds; its counterpart is a cache beside the loaded engine.
    cache = None if _is_rtx(trt) else timing_cache or plan.with_name(f"{plan.name}.timing")
    if cache is not None:
        config.set_timing_cache(config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), False)
    serialized = builder.build_serialized_network(network, config)
    del parser  # not before: the weights that the network points to are its own
    if serialized is None:
        raise ValueError(f"{onnx_path}: {trt.__name__} {trt.__version__} cannot build it: {log.last_error}")
    write_atomically(plan, bytes(serialized))
    if cache is not None:
        write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    return target


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


def gpu() -> tuple[str | None, str | None]:
    """Name and compute capability of this machine's GPU, (None, None) without one."""
    if not torch.cuda.is_available():
        return None, None
    return torch.cuda.get_device_name(), "{}.{}".format(*torch.cuda.get_device_capability())


def _is_rtx(trt: TensorRT) -> bool:
    return trt.__name__ == "tensorrt_rtx"


def _builder(trt: TensorRT, log: Any) -> Any:
    if not _is_rtx(trt) and not torch.cuda.is_available():
        raise ValueError("tensorrt builds on the GPU that will serve, and there is none here; tensorrt_rtx needs none")
    return trt.Builder(log)


def _set_target(trt: TensorRT, config: Any, compute_capability: str | None, any_gpu: bool) -> Target:
    versions = {trt.__name__: library_version(trt)}
    if _is_rtx(trt):
        if any_gpu:
            raise ValueError("tensorrt_rtx: its engines run on every GPU from compute capability 8.6 on as it is")
        if compute_capability is None:
            return Target(versions, None, None)
        name = f"SM{compute_capability.replace('.', '')}"
        known = [member for member in trt.ComputeCapability.__members__ if member.startswith("SM")]
        if name not in known:
            offered = ", ".join(f"{member[2:-1]}.{member[-1]}" for member in known)
            raise ValueError(f"compute capability {compute_capability}: tensorrt_rtx builds for {offered}")
        config.num_compute_capabilities = 1
        accepted = config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
        assert accepted
        return Target(versions, None, compute_capability)
    if compute_capability is not None:
        raise ValueError("tensorrt builds for the GPU at hand; a compute capability can be given to tensorrt_rtx only")
    if any_gpu:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        return Target(versions, None, None)
    return Target(versions, *gpu())


def _log(trt: TensorRT) -> Any:
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


def _progress(trt: TensorRT) -> Any:
    """A bar on the terminal for the build, with the name of what is under way."""

    class Progress(trt.IProgressMonitor):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.bars: dict[str, tqdm] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.bars[phase_name] = tqdm(total=num_steps, desc=phase_name, disable=None)
            elif parent_phase in self.bars:
                self.bars[parent_phase].set_postfix_str(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.bars:
                self.bars[phase_name].update()
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.bars:
                self.bars.pop(phase_name).close()

    return Progress()


if __name__ == "__main__":
    sys.exit(main())
