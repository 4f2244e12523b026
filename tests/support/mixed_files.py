"""The tiny network as graphs, exported once for all test files."""

from __future__ import annotations

import ast
import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from tiny import tiny_bundle_config, tiny_network

from model.bundle import Bundle, load_bundle, save_bundle
from serve.export.graph import write_onnx
from serve.export.mixed_precision import PRODUCTS, SCOPES, TYPES, write_mixed

_FOLDER = tempfile.TemporaryDirectory(prefix="mixed-")


@functools.cache
def tiny_bundle() -> Bundle:
    """No weight is zero or equals another, as after training: the exporter would drop or share those."""
    network = tiny_network()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    save_bundle(Path(_FOLDER.name, "bundle"), tiny_bundle_config(), network)
    return load_bundle(Path(_FOLDER.name, "bundle"))


@functools.cache
def tiny_graphs() -> Path:
    """A folder with model.onnx, f16.onnx, bf16.onnx, and the bundle itself in bundle/."""
    folder = Path(_FOLDER.name)
    write_onnx(tiny_bundle(), folder / "model.onnx")
    for precision in TYPES:
        write_mixed(folder / "model.onnx", folder / f"{precision}.onnx", precision)
    return folder


def break_layer(path: Path, layer: str, factor: float) -> None:
    """Rewrite a graph so that one layer multiplies by `factor` times its weights."""
    model = onnx.load(path)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        scopes = ast.literal_eval({prop.key: prop.value for prop in node.metadata_props}.get(SCOPES, "[]"))
        if node.op_type in PRODUCTS and scopes[-2] == layer and node.input[1] in weights:
            values = onnx.numpy_helper.to_array(weights[node.input[1]])
            with np.errstate(over="ignore"):
                other = (values.astype(np.float32) * factor).astype(values.dtype)
            model.graph.initializer.append(onnx.numpy_helper.from_array(other, "broken"))
            node.input[1] = "broken"
            onnx.save(model, path)
            return
    raise AssertionError(f"{layer} multiplies nothing")
