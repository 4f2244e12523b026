"""What a 16-bit graph computes, on a CPU that has no such arithmetic: float32 products, rounded to 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

NARROW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def rounded_session(path: Path) -> onnxruntime.InferenceSession:
    """A session of the graph in which a 16-bit value is a float32 one rounded to 16 bits wherever it is computed."""
    model = onnx.load(path)
    graph = model.graph
    for weight in graph.initializer:
        if weight.data_type in NARROW:
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float32), weight.name))
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    nodes = []
    for node in graph.node:
        narrow = [name for name in node.output if kinds.get(name) in NARROW]
        if node.op_type == "Cast" and node.attribute[0].i in NARROW:
            node.attribute[0].i, narrow = TensorProto.FLOAT, [node.output[0]]
        computes = node.op_type in ("Cast", "MatMul", "Gemm", "Conv", "Add")
        for index, name in enumerate(node.output):
            if computes and name in narrow:
                node.output[index] = f"{name}_exact"
        nodes.append(node)
        for name in narrow if computes else []:
            nodes.append(helper.make_node("Cast", [f"{name}_exact"], [f"{name}_rounded"], to=kinds[name]))
            nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    options = onnxruntime.SessionOptions()
    # An optimiser would take the pairs of casts away.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
