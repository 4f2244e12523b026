"""The tiny network as graphs, exported once for all test files."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from conftest import tiny_bundle_config, tiny_network

from model.bundle import Bundle, load_bundle, save_bundle
from model.export.graph import write_onnx
from model.export.mixed_precision import TYPES, write_mixed

_FOLDER = tempfile.TemporaryDirectory(prefix="mixed-")


@functools.cache
def tiny_bundle() -> Bundle:
    save_bundle(Path(_FOLDER.name, "bundle"), tiny_bundle_config(), tiny_network())
    return load_bundle(Path(_FOLDER.name, "bundle"))


@functools.cache
def tiny_graphs() -> Path:
    """A folder with model.onnx, f16.onnx, bf16.onnx, and the bundle itself in bundle/."""
    folder = Path(_FOLDER.name)
    write_onnx(tiny_bundle(), folder / "model.onnx")
    for precision in TYPES:
        write_mixed(folder / "model.onnx", folder / f"{precision}.onnx", precision)
    return folder
