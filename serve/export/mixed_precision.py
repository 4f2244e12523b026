"""Training's autocast written into the graph: matrix products in 16 bits, all else in float32.

TensorRT computes a strongly typed network in exactly the types that the graph names. So LayerNorm, softmax, GELU,
residual sums, embeddings, λ and the heads stay float32 because the graph says so, not by an optimiser's leave.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

TYPES = {"f16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
PRODUCTS = {"MatMul", "Gemm", "Conv"}
# They move values and compute none, so they pass on whichever type they get.
SHAPING = {"Concat", "Expand", "Gather", "GatherElements", "Reshape", "Shape", "Slice", "Split"}
SHAPING |= {"Squeeze", "Transpose", "Unsqueeze"}
FLOAT32_PARTS = {"modality_heads", "wide"}
SCOPES = "pkg.torch.onnx.name_scopes"


def write_mixed(source: Path, target: Path, precision: str) -> None:
    """Write the graph again with 16-bit matrix products; inputs and outputs keep their types.

    Args:
        source: from `serve.export.graph.write_onnx`, float32.
        precision: `f16` or `bf16`.
    Raises:
        ValueError: unknown precision, a node without its module's name, a weight beyond float16, or
            onnx.checker refuses the result.
    """
    if precision not in TYPES:
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(TYPES)}")
    model = ir.load(source)
    _cast_pixels_first(model.graph)
    _drop_nan_guards(model.graph)
    _scale_after_product(model.graph)
    _Narrowing(model.graph, TYPES[precision]).run()
    RemoveUnusedNodesPass()(model)
    if precision == "bf16":  # Conv takes it from opset 22 on, which changed no other operator of this network
        model.opset_imports[""] = max(model.graph.opset_imports[""], 22)
    ir.save(model, target)
    try:
        onnx.checker.check_model(str(target), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"onnx.checker refuses the mixed-precision graph: {error}") from error


def module_scopes(node: ir.Node) -> list[str]:
    """The modules that a node comes from, outermost first, as the exporter noted; [] where it noted none."""
    return ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))[:-1]


class _Narrowing:
    """Gives each node its type, in the order of computation, and casts where two types meet.

    Each value is cast once, behind the node that makes it; each weight is stored once in each type it is used in.
    """

    def __init__(self, graph: ir.Graph, narrow: ir.DataType) -> None:
        self.graph, self.narrow = graph, narrow
        self.floats = {narrow, ir.DataType.FLOAT}
        self.cast_values: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def run(self) -> None:
        for node in list(self.graph):
            wanted = self.narrow if self._is_narrow(node) else ir.DataType.FLOAT
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in self.floats:
                    node.replace_input_with(index, self._as(value, wanted))
            for value in node.outputs:
                if value.dtype in self.floats and wanted == self.narrow:
                    value.dtype = wanted
        for index, value in enumerate(self.graph.outputs):
            if value.dtype == self.narrow:
                name, value.name = value.name, f"{value.name}_{self.narrow.name}"
                self.graph.outputs[index] = wide = self._as(value, ir.DataType.FLOAT)
                wide.name = name

    def _is_narrow(self, node: ir.Node) -> bool:
        values = [value for value in node.inputs if value is not None and value.dtype in self.floats]
        if node.op_type in PRODUCTS and values:
            if not (scopes := module_scopes(node)):
                raise ValueError(f"{node.name} ({node.op_type}): the graph does not say which module it belongs to")
            return FLOAT32_PARTS.isdisjoint(scopes)
        if node.op_type in SHAPING or self._adds_bias(node):
            return any(value.dtype == self.narrow for value in values) and all(
                value.dtype == self.narrow or value.is_initializer() for value in values
            )
        return False

    def _adds_bias(self, node: ir.Node) -> bool:
        """A linear layer with more than two dimensions is exported as MatMul and Add; autocast narrows both."""
        producers = [value.producer() for value in node.inputs if value is not None]
        after_product = any(producer is not None and producer.op_type in PRODUCTS for producer in producers)
        return node.op_type == "Add" and after_product

    def _as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self.cast_values:
            make = self._stored_as if value.is_initializer() else self._cast
            self.cast_values[value, dtype] = make(value, dtype)
        return self.cast_values[value, dtype]

    def _stored_as(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        with np.errstate(over="ignore"):
            array = value.const_value.numpy().astype(dtype.numpy())
        if not np.isfinite(array.astype(np.float32)).all():
            raise ValueError(f"{value.name}: weights beyond the range of {dtype.name}; use bf16")
        narrow = ir.val(f"{value.name}_{dtype.name}", const_value=ir.tensor(array))
        self.graph.register_initializer(narrow)
        return narrow

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        producer = value.producer()
        assert producer is not None
        cast = _cast_node(value, dtype, f"{value.name}_{dtype.name}", producer.metadata_props)
        self.graph.insert_after(producer, cast)
        return cast.outputs[0]


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str, metadata: dict[str, str]) -> ir.Node:
    output = ir.val(name, dtype, value.shape)
    return ir.node("Cast", [value], {"to": dtype}, outputs=[output], name=f"cast_{name}", metadata_props=dict(metadata))


def _cast_pixels_first(graph: ir.Graph) -> None:
    """TensorRT takes a uint8 input only where it is cast before anything else is done to it."""
    for node in list(graph):
        value = node.inputs[0] if node.op_type == "Transpose" else None
        if value is not None and value.is_graph_input() and value.dtype == ir.DataType.UINT8:
            assert all(user.op_type == "Cast" for user in node.outputs[0].consumers())
            cast = _cast_node(value, ir.DataType.FLOAT, f"{value.name}_FLOAT", node.metadata_props)
            graph.insert_before(node, cast)
            node.replace_input_with(0, cast.outputs[0])
            node.outputs[0].dtype = ir.DataType.FLOAT
            for old_cast in node.outputs[0].consumers():
                old_cast.outputs[0].replace_all_uses_with(node.outputs[0])


def _drop_nan_guards(graph: ir.Graph) -> None:
    """The exporter zeroes a softmax's NaN, which a row with nothing to attend to would give; there is no such row."""
    for node in list(graph):
        guard = node.inputs[0].producer() if node.op_type == "Where" and node.inputs[0] is not None else None
        softmax = guard.inputs[0] if guard is not None and guard.op_type == "IsNaN" else None
        if softmax is not None and softmax is node.inputs[2]:
            node.outputs[0].replace_all_uses_with(softmax)


def _scale_after_product(graph: ir.Graph) -> None:
    """(a·q)(b·k) becomes ab·(qk): attention's queries and keys need no float32 between their two products."""
    for node in list(graph):
        factors = [pair for value in node.inputs if (pair := _scaled(value))] if node.op_type == "MatMul" else []
        if len(factors) == 2:
            product = node.outputs[0]
            constant = ir.val(f"{product.name}_scale", const_value=ir.tensor(np.float32(factors[0][1] * factors[1][1])))
            graph.register_initializer(constant)
            scaled = ir.val(f"{product.name}_scaled", product.dtype, product.shape)
            product.replace_all_uses_with(scaled)
            for index, (value, _) in enumerate(factors):
                node.replace_input_with(index, value)
            metadata = dict(node.metadata_props)
            graph.insert_after(
                node, ir.node("Mul", [product, constant], outputs=[scaled], name=scaled.name, metadata_props=metadata)
            )


def _scaled(value: ir.Value | None) -> tuple[ir.Value, float] | None:
    """x and c where the value is x times a constant number c."""
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "Mul":
        return None
    factor, constant = producer.inputs[0], producer.inputs[1]
    number = ir.convenience.get_const_tensor(constant) if constant is not None else None
    if factor is None or number is None or number.size != 1:
        return None
    return factor, float(number.numpy().item())
