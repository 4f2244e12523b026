"""A model repository and a machine to launch on, made of files: no network is trained and no server starts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tiny import ROOT, tiny_bundle_config

from cma_clip.files import file_sha256
from serve.stamp import EngineStamp

LIBRARY = """
extern "C" int getInferLibMajorVersion() { return %d; }
extern "C" int getInferLibMinorVersion() { return %d; }
extern "C" int getInferLibPatchVersion() { return %d; }
extern "C" int getInferLibBuildVersion() { return %d; }
"""


def write_repository(repository: Path) -> Path:
    """The committed deploy/ with a bundle.json and an ONNX file that nobody opens, stamped."""
    shutil.copytree(ROOT / "deploy", repository, ignore=shutil.ignore_patterns("bundle.json", "model.*", "__pycache__"))
    (repository / "bundle.json").write_text(tiny_bundle_config().model_dump_json())
    write_engine(repository, "model.onnx", runtime="openvino")
    return repository


def write_engine(repository: Path, name: str, **stamp: object) -> Path:
    engine = repository / "engine/1" / name
    engine.write_bytes(b"engine")
    bundle = file_sha256(repository / "bundle.json")
    EngineStamp.model_validate({"precision": "f16", "bundle_sha256": bundle} | stamp).write(engine)
    return engine


def write_tensorrt(folder: Path, version: str) -> Path:
    """A libnvinfer.so that can say its version and nothing else."""
    source, library = folder / "nvinfer.cpp", folder / "libnvinfer.so"
    source.write_text(LIBRARY % tuple(map(int, version.split("."))))
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def write_command(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
