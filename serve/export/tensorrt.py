"""The network as a TensorRT plan, by way of a float32 and a mixed-precision ONNX graph.

    python -m serve.export.tensorrt BUNDLE --module tensorrt_rtx

builds without a GPU, and publishes nothing.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from model.bundle import Bundle, load_bundle
from serve.check import read_config
from serve.engines import INPUTS
from serve.engines.tensorrt import TensorRTEngine
from serve.export.bisect import Arrays, first_deviation
from serve.export.built import Built, Candidate, Order, Target
from serve.export.graph import write_onnx
from serve.export.mixed_precision import TYPES, write_mixed
from serve.export.parity import random_inputs
from serve.export.plan import MODULES, build_engine, import_tensorrt

# Of a layer's largest value; sound engines stay below a third of it.
LAYER_LIMITS = {"f16": 0.02, "bf16": 0.1}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument("--output", type=Path, default=Path("model.plan"), help="nothing is published into deploy/")
    parser.add_argument("--module", choices=list(MODULES), default="tensorrt")
    parser.add_argument("--precision", choices=list(TYPES), default="f16", help="of the matrix products")
    args = parser.parse_args(arguments)
    target = build_plan(load_bundle(args.bundle), args.output, args.precision, args.module)
    versions = ", ".join(f"{name} {version}" for name, version in target.versions.items())
    gpu = f"{target.gpu} of compute capability {target.compute_capability}" if target.gpu else "several kinds of GPUs"
    print(f"{args.output}: {args.output.stat().st_size >> 20} MiB, {args.precision}, {versions}, for {gpu}")


def build(order: Order) -> Built:
    """A plan for this machine's GPU.

    Raises:
        ValueError: as `build_plan`, or the server's configuration has another number of profiles.
    """
    bundle, precision, folder = order.bundle, order.precision, order.path.parents[1]
    lengths = bundle.config.preprocess.title_lengths
    served = read_config(folder, None).instance_group[0].profile
    if len(served) != len(lengths):  # titles of the lengths left over would fail, one by one
        raise ValueError(
            f"{folder}/config.pbtxt serves {len(served)} profiles, the bundle has {len(lengths)} title lengths:"
            f" list as many under instance_group"
        )
    # Beside the models: the version folder is replaced by each export.
    target = build_plan(bundle, order.path, precision, timing_cache=folder.parent / f"{order.path.name}.timing")
    run = TensorRTEngine(order.path, {"precision": precision})
    where = functools.partial(first_wrong_layer, bundle, precision)
    return Built(precision, [Candidate(f"tensorrt {precision}", precision, run, lengths, where)], target)


def build_plan(
    bundle: Bundle, plan: Path, precision: str, module: str = "tensorrt", timing_cache: Path | None = None
) -> Target:
    """Write the bundle's network as a plan with a profile for each of its title lengths.

    Args:
        precision: `f16` or `bf16`.
        module: `tensorrt` or `tensorrt_rtx`.
        timing_cache: as for `build_engine`.
    Raises:
        ValueError: as `import_tensorrt`, `build_engine` and `write_mixed`.
    """
    trt, preprocess = import_tensorrt(module), bundle.config.preprocess  # before the minutes of work
    print(f"building {plan}: minutes for a network of full size", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        whole, mixed = Path(folder, "model.onnx"), Path(folder, "mixed.onnx")
        write_onnx(bundle, whole)
        write_mixed(whole, mixed, precision)
        return build_engine(trt, mixed, plan, preprocess.title_lengths, preprocess.image_size, timing_cache)


def first_wrong_layer(bundle: Bundle, precision: str, module: str = "tensorrt") -> str:
    """Which layer's values leave those of the float32 graph first, as words for an error message."""
    trt, preprocess = import_tensorrt(module), bundle.config.preprocess
    length, limit = preprocess.title_lengths[0], LAYER_LIMITS[precision]

    def candidate(onnx_path: Path, inputs: Arrays) -> Arrays:
        mixed, plan = onnx_path.with_name("mixed.onnx"), onnx_path.with_name("model.plan")
        write_mixed(onnx_path, mixed, precision)
        build_engine(trt, mixed, plan, [length], preprocess.image_size)
        return TensorRTEngine(plan, {"module": module, "precision": precision}).run(inputs)

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(bundle, Path(folder, "model.onnx"))
        inputs = dict(zip(INPUTS, random_inputs(bundle.config, 3, length, seed=0), strict=True))
        found = first_deviation(Path(folder, "model.onnx"), inputs, candidate, limit)
    if found is None:
        return f"no layer by itself is off by more than {limit:.0%} of its largest value"
    return f"the first layer off by more than {limit:.0%} of its largest value is {found.layer} ({found.error:.2g})"


if __name__ == "__main__":
    sys.exit(main())
