"""A graph whose weights lie in another file, outside its folder: no library that reads graphs here may follow it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

ESCAPES = ("parent", "absolute", "symlink", "hardlink")


def graph_that_reads(folder: Path, escape: str) -> Path:
    """model.onnx adds four numbers to its input, which lie beside its folder."""
    folder.mkdir()
    outside = folder.parent / "outside.bin"
    outside.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    if escape == "symlink":
        (folder / "w.bin").symlink_to(outside)
    elif escape == "hardlink":
        os.link(outside, folder / "w.bin")
    location = {"parent": "../outside.bin", "absolute": str(outside)}.get(escape, "w.bin")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("escape", ESCAPES)
def test_E4_external_data_outside_the_folder_is_refused(tmp_path: Path, escape: str):
    path = graph_that_reads(tmp_path / "engine", escape)
    for read in (onnx.load, onnx.checker.check_model):
        with pytest.raises(onnx.checker.ValidationError, match=r"\(? ?tensor name: w|external TensorProto"):
            read(str(path))


@pytest.mark.parametrize("escape", ESCAPES[:3])  # it takes a hard link for the file that it is
def test_E4_onnx_runtime_refuses_it_too(tmp_path: Path, escape: str):
    path = graph_that_reads(tmp_path / "engine", escape)
    with pytest.raises(Exception, match="External data path validation failed"):
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
