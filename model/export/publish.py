"""Fill a Triton model repository from a bundle: engine, stamp, tokenizer, configuration. Nothing half-made is seen."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from model.bundle import Bundle, load_bundle
from model.engine_stamp import EngineStamp, stamp_path
from model.engines import load_engine
from model.export.graph import write_onnx
from model.export.parity import Run, compare, product_cases, random_cases
from model.files import new_directory, write_atomically

REPOSITORY = Path(__file__).parents[2] / "deploy"
ENGINE_FILES = ("model.onnx", "model.plan", "model.pt2")
# The precisions that can be asked for; the first is a runtime's own.
RUNTIMES = {"openvino": ("f32", "int8"), "tensorrt": ("f16", "bf16"), "torch": ("bf16", "f32")}
COMPARED_PRODUCTS = 500


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
    """

    file: Path
    precision: str
    candidates: list[Candidate]
    versions: dict[str, str] = {}
    gpu: str | None = None
    compute_capability: str | None = None


Builder = Callable[[Bundle, Path, str | None, Path | None], Built]


def export(
    bundle_dir: Path,
    deploy: Path,
    runtime: str = "openvino",
    precision: str | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Fill a model repository from a bundle.

    Args:
        bundle_dir: as written by training.
        deploy: the repository; made as a copy of the project's where it does not exist. Engines of other
            runtimes in it stay if they were exported from the same bundle.
        runtime: one of RUNTIMES.
        precision: of the matrix products; None is the runtime's own.
        data: data set directory. Its validation split is compared too, on its training split int8 is calibrated.
    Returns:
        parity report of each candidate by name; also stored in the stamp beside the engine file.
    Raises:
        ValueError: the bundle is unfit, the graph is invalid, parity fails, or the runtime cannot be
            built here. What `deploy` served before stays then.
    """
    builder = _builder(runtime, precision)
    bundle = load_bundle(bundle_dir)
    prepare_repository(deploy)
    served_config = bundle.config.model_dump_json(indent=2) + "\n"
    bundle_sha256 = hashlib.sha256(served_config.encode()).hexdigest()
    with new_directory(deploy / "engine" / "1") as partial:
        built = builder(bundle, partial, precision, data)
        reports = {}
        for candidate in built.candidates:
            reports[candidate.name] = judge(bundle, candidate, data)
        # The engine refuses to load beside another bundle.json: a kill between the renames shows.
        EngineStamp(
            runtime=runtime,
            precision=built.precision,
            bundle_sha256=bundle_sha256,
            versions=built.versions,
            gpu=built.gpu,
            compute_capability=built.compute_capability,
            parity=reports,
        ).write(built.file)
        _keep(deploy / "engine" / "1", partial, bundle_sha256)
    write_atomically(deploy / "tokenizer.json", (bundle_dir / "tokenizer.json").read_bytes())
    write_atomically(deploy / "bundle.json", served_config)
    return reports


def judge(bundle: Bundle, candidate: Candidate, data: Path | None) -> dict[str, Any]:
    """The parity report of one candidate: on random inputs, or on products where a data set is given.

    Raises:
        ValueError: it is too far from torch.
    """
    products = product_cases(bundle, data, "validation", COMPARED_PRODUCTS) if data else iter(())
    # 8 bits are scaled for products, not for noise.
    noise = random_cases(bundle.config, candidate.lengths) if candidate.precision != "int8" else iter(())
    cases = itertools.chain(noise, products)
    report = compare(bundle, candidate.run, candidate.precision, cases)
    if not report["passed"]:
        where = f"; {candidate.where()}" if candidate.where else ""
        raise ValueError(f"{candidate.name} differs from torch: {report}{where}; nothing published")
    return report


def _builder(runtime: str, precision: str | None) -> Builder:
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
    from model.export.int8 import quantize

    exact = path.with_name("exact.onnx")
    write_onnx(bundle, exact)
    quantize(bundle, exact, path, data)
    exact.unlink()
    served = load_engine("openvino", path, {})
    return Built(path, "int8", [Candidate("openvino int8", "int8", served)])


def _build_tensorrt(bundle: Bundle, folder: Path, precision: str | None, data: Path | None) -> Built:
    from model.export.tensorrt_engine import build_plan

    precision, path = precision or RUNTIMES["tensorrt"][0], folder / "model.plan"
    target = build_plan(bundle, path, precision)
    run = load_engine("tensorrt", path, {"precision": precision})
    lengths = bundle.config.preprocess.title_lengths
    where = functools.partial(first_wrong_layer, bundle, precision)
    return Built(path, precision, [Candidate(f"tensorrt {precision}", precision, run, lengths, where)], *target)


def _build_torch(bundle: Bundle, folder: Path, precision: str | None, data: Path | None) -> Built:
    import torch

    from model.export.torch_package import PRECISIONS, build_package

    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision, path = precision or PRECISIONS[device], folder / "model.pt2"
    versions = build_package(bundle, path, device, precision)
    engine = load_engine("torch", path, {})
    gpu, capability = (torch.cuda.get_device_name(), engine.machine()[1]) if device == "cuda" else (None, None)
    return Built(path, precision, [Candidate(f"torch {precision}", precision, engine)], versions, gpu, capability)


def _keep(version: Path, partial: Path, bundle_sha256: str) -> None:
    """Take over the python step, and other runtimes' engines where they fit the bundle."""
    for step in version.glob("*.py"):
        shutil.copy2(step, partial)
    for engine in (version / name for name in ENGINE_FILES):
        if (partial / engine.name).exists() or not stamp_path(engine).is_file():
            continue
        if EngineStamp.read(engine).bundle_sha256 == bundle_sha256:
            for file in (engine, stamp_path(engine)):
                os.link(file, partial / file.name)


def prepare_repository(deploy: Path) -> None:
    """Make `deploy` a copy of the project's model repository unless it is one already.

    Raises:
        ValueError: `deploy` holds something else, or there is nothing to copy from.
    """
    if (deploy / "engine" / "config.pbtxt").is_file():
        return
    if deploy.exists() and any(deploy.iterdir()):
        raise ValueError(f"{deploy}: neither empty nor a model repository of this project")
    if not (REPOSITORY / "engine" / "config.pbtxt").is_file():
        raise ValueError(
            f"{deploy}: no such model repository; run this from a checkout of the project, or copy its deploy/"
        )
    engines = [pattern for name in ENGINE_FILES for pattern in (name, f"{name}.json")]
    generated = shutil.ignore_patterns("bundle.json", "tokenizer.json", *engines, "__pycache__", ".*.partial")
    shutil.copytree(REPOSITORY, deploy, ignore=generated, dirs_exist_ok=True)
