"""16-bit matrix products in the graph: which types it names, and how far its answers are from float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from mixed_files import tiny_bundle, tiny_graphs
from rounded import rounded_session

from serve.engines import INPUTS, OUTPUTS
from serve.export.mixed_precision import SCOPES, write_mixed
from serve.export.parity import compare, random_inputs

FLOAT, HALF, BRAIN = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_graphs()


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.value_info, *graph.output]}
    return values | {weight.name: weight.data_type for weight in graph.initializer}


@pytest.mark.parametrize(("precision", "narrow"), [("f16", HALF), ("bf16", BRAIN)])
def test_every_product_but_the_heads_is_narrow_and_nothing_else_computes_so(folder: Path, precision: str, narrow: int):
    model = onnx.load(folder / f"{precision}.onnx")
    kinds = types(model)
    products = {"MatMul", "Gemm", "Conv"}
    moves = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "GatherElements", "Concat", "Shape"}
    seen = {"heads": 0, "products": 0, "biases": 0}
    for node in model.graph.node:
        used = {kinds[name] for name in [*node.input, *node.output] if name and kinds[name] in (FLOAT, narrow)}
        in_heads = "modality_heads: " in str(node.metadata_props)
        if node.op_type in products:
            assert used == ({FLOAT} if in_heads else {narrow}), node.name
            seen["heads" if in_heads else "products"] += 1
        elif node.op_type == "Add" and used == {narrow}:
            assert sum(name in {w.name for w in model.graph.initializer} for name in node.input) == 1
            seen["biases"] += 1
        elif node.op_type == "Cast":
            assert len(used) in (1, 2)
        elif node.op_type in moves:
            assert len(used) < 2, node.name
        else:
            assert narrow not in used, node.name
    # 2 text, 3 image and 2 sequence blocks have 6 products; beside them patches, a text and two image projections.
    # 4 linear layers a block, of which attention's last in the towers is a Gemm, which holds its bias.
    assert seen == {"heads": 4, "products": 7 * 6 + 4, "biases": 23}


def test_no_value_is_cast_twice_or_there_and_back(folder: Path):
    model = onnx.load(folder / "f16.onnx")
    casts = {node.output[0]: node for node in model.graph.node if node.op_type == "Cast"}
    assert len({(node.input[0], node.attribute[0].i) for node in casts.values()}) == len(casts)
    for node in casts.values():
        assert node.input[0] not in casts
    # Attention between its products: one cast up before the softmax and one down behind it.
    softmaxes = sum(node.op_type == "Softmax" for node in model.graph.node)
    inside = [node for node in model.graph.node if node.op_type == "Cast" and ".attn" in str(node.metadata_props)]
    assert softmaxes == 7 and len(inside) <= 5 * 4


def test_E2_inputs_and_outputs_keep_their_names_types_and_dynamic_sizes(folder: Path):
    graphs = [onnx.load(folder / name).graph for name in ("model.onnx", "f16.onnx", "bf16.onnx")]
    for graph in graphs[1:]:
        for ours, theirs in zip([*graph.input, *graph.output], [*graphs[0].input, *graphs[0].output], strict=True):
            assert (ours.name, ours.type) == (theirs.name, theirs.type)


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_E6_answers_stay_within_the_limits(folder: Path, precision: str):
    """ONNX Runtime computes in float32 and rounds wherever the graph says 16 bits."""
    session = rounded_session(folder / f"{precision}.onnx")
    report = compare(
        tiny_bundle(), lambda *arrays: session.run(OUTPUTS, dict(zip(INPUTS, arrays, strict=True))), precision
    )
    assert report["passed"], report
    assert report["probability_difference"] > 1e-6  # float32 would be below


def test_float16_also_as_onnx_runtime_computes_it(folder: Path):
    session = onnxruntime.InferenceSession(folder / "f16.onnx", providers=["CPUExecutionProvider"])
    inputs = dict(zip(INPUTS, random_inputs(tiny_bundle().config, 7, 24, seed=0), strict=True))
    for ours, rounded in zip(
        session.run(OUTPUTS, inputs), rounded_session(folder / "f16.onnx").run(OUTPUTS, inputs), strict=True
    ):
        np.testing.assert_allclose(ours, rounded, atol=5e-3)


def test_what_cannot_be_narrowed_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="precision 'f8': expected one of f16, bf16"):
        write_mixed(folder / "model.onnx", tmp_path / "mixed.onnx", "f8")
    model = onnx.load(folder / "model.onnx")
    (product,) = (node for node in model.graph.node if node.op_type == "Conv")
    scopes = [prop for prop in product.metadata_props if prop.key == SCOPES]
    product.metadata_props.remove(scopes[0])
    onnx.save(model, tmp_path / "nameless.onnx")
    with pytest.raises(ValueError, match=r"node_Conv.* \(Conv\): the graph does not say which module"):
        write_mixed(tmp_path / "nameless.onnx", tmp_path / "mixed.onnx", "f16")


def test_a_weight_beyond_float16_is_refused_and_fits_bfloat16(folder: Path, tmp_path: Path):
    model = onnx.load(folder / "model.onnx")
    (weight,) = (w for w in model.graph.initializer if w.name == "towers.clip.visual.conv1.weight")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, 7e4, np.float32), weight.name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(ValueError, match="conv1.weight: weights beyond the range of FLOAT16; use bf16"):
        write_mixed(tmp_path / "large.onnx", tmp_path / "mixed.onnx", "f16")
    write_mixed(tmp_path / "large.onnx", tmp_path / "mixed.onnx", "bf16")
