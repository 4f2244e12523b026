"""Fill a Triton model repository from a bundle: engine, stamp, tokenizer, configuration. Nothing half-made is seen."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from model.bundle import Bundle, load_bundle
from model.engine_stamp import EngineStamp, stamp_path
from model.engines import load_engine
from model.export.graph import write_onnx
from model.export.parity import Run, compare
from model.files import new_directory, write_atomically

REPOSITORY = Path(__file__).parents[2] / "deploy"
ENGINE_FILES = ("model.onnx", "model.plan", "model.pt2")


class Built(NamedTuple):
    """An engine file that has been written.

    precision, versions, gpu, compute_capability: as in EngineStamp.
    runs: name, precision of the products, engine; each has to pass the comparison with torch.
    """

    file: Path
    precision: str
    runs: list[tuple[str, str, Run]]
    versions: dict[str, str] = {}
    gpu: str | None = None
    compute_capability: str | None = None


Builder = Callable[[Bundle, Path, str | None, Path | None], Built]


def export(
    bundle_dir: Path,
    deploy: Path,
    runtime: str = "openvino",
    precision: str | None = None,
    calibration: Path | None = None,
) -> dict[str, Any]:
    """Fill a model repository from a bundle.

    Args:
        bundle_dir: as written by training.
        deploy: the repository; made as a copy of the project's where it does not exist. Engines of other
            runtimes in it stay if they were exported from the same bundle.
        runtime: `openvino`, `tensorrt` or `torch`.
        precision: one of the runtime's PRECISIONS; None is its first.
        calibration: data set directory, for int8.
    Returns:
        parity report of each engine that was compared, by name; also stored in the stamp beside the engine file.
    Raises:
        ValueError: the bundle is unfit, the graph is invalid, parity fails, or the runtime cannot be
            built here. What `deploy` served before stays then.
    """
    builder = _builder(runtime)
    bundle = load_bundle(bundle_dir)
    prepare_repository(deploy)
    served_config = bundle.config.model_dump_json(indent=2) + "\n"
    bundle_sha256 = hashlib.sha256(served_config.encode()).hexdigest()
    with new_directory(deploy / "engine" / "1") as partial:
        built = builder(bundle, partial, precision, calibration)
        reports = {f"{name} {precision}": compare(bundle, run, precision) for name, precision, run in built.runs}
        for name, report in reports.items():
            if not report["passed"]:
                raise ValueError(f"{bundle_dir}: {name} differs from torch: {report}; nothing published")
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


def _builder(runtime: str) -> Builder:
    match runtime:
        case "openvino":
            return _build_openvino
        case _:
            raise ValueError(f"--runtime {runtime}: expected one of openvino, tensorrt, torch")


def _build_openvino(bundle: Bundle, folder: Path, precision: str | None, calibration: Path | None) -> Built:
    """The ONNX file as it is: the graph is judged in ONNX Runtime, OpenVINO in the precision that it takes here."""
    path = folder / "model.onnx"
    write_onnx(bundle, path)
    graph, served = load_engine("onnxruntime", path, {}), load_engine("openvino", path, {})
    return Built(path, "f32", [("onnxruntime", "f32", graph), ("openvino", served.precision, served)])


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
