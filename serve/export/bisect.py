"""Where an engine goes wrong: the first layer whose values differ too far from the float32 graph's."""

from __future__ import annotations

import ast
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime

from serve.engines import OUTPUTS
from serve.export.mixed_precision import SCOPES

Arrays = Mapping[str, np.ndarray]
# Builds an engine from a float32 ONNX file and runs it: every output of the graph, by name, as float32.
Candidate = Callable[[Path, Arrays], Arrays]


class Deviation(NamedTuple):
    """A layer beyond the limit.

    layer: module as in the network, such as `sequence_attention.blocks.3.mlp.0`.
    value: the graph's name of what it computes.
    error: largest difference over the largest value there; inf where there is NaN.
    """

    layer: str
    value: str
    error: float


class _Step(NamedTuple):
    layer: str
    value: str


def first_deviation(onnx_path: Path, inputs: Arrays, candidate: Candidate, limit: float) -> Deviation | None:
    """Name the first layer, in the order of computation, whose error exceeds the limit; None if none does.

    First every layer gives out its values. That keeps an engine from fusing layers, so where all are sound by
    themselves a second run gives out those of whole blocks only, and a block is what can be named.

    Args:
        onnx_path: float32 graph from `serve.export.graph.write_onnx`; ONNX Runtime computes what is right.
        inputs: one batch, by the names of the graph's inputs.
        limit: on the error as in Deviation.
    """
    model = onnx.load(onnx_path)
    layers = _steps(model)
    found = next(_deviations(model, layers, inputs, candidate, limit), None)
    if found is None:
        blocks = _last_of_each(layers, _block)
        found = next(_deviations(model, blocks, inputs, candidate, limit), None)
        return found and found._replace(layer=_block(found.layer))
    return found


def onnx_runtime(path: Path, inputs: Arrays) -> Arrays:
    """All outputs of a graph, computed on the CPU."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def relative_error(right: np.ndarray, actual: np.ndarray) -> float:
    """Largest difference over the largest finite right value; inf where the engine has NaN."""
    differs = actual != right  # a mask's -inf equals itself
    if not differs.any():
        return 0.0
    largest = np.abs(right[np.isfinite(right)]).max(initial=np.finfo(np.float32).tiny)
    return float(np.nan_to_num(np.abs(actual[differs] - right[differs]).max() / largest, nan=np.inf, posinf=np.inf))


def _steps(model: onnx.ModelProto) -> list[_Step]:
    """The modules in the order of computation, each with the last float32 value that it computes in a row."""
    floats, steps = _floats(model), []
    for node in model.graph.node:
        scopes = ast.literal_eval({prop.key: prop.value for prop in node.metadata_props}.get(SCOPES, "[]"))
        if node.output[0] in floats and len(scopes) > 1 and scopes[-2]:
            steps.append(_Step(scopes[-2], node.output[0]))
    return _last_of_each(steps, lambda layer: layer)


def _last_of_each(steps: Sequence[_Step], part: Callable[[str], str]) -> list[_Step]:
    """The last of all steps in a row that belong to one part of the network; its outputs always."""
    following = [*(part(step.layer) for step in steps[1:]), ""]
    pairs = zip(steps, following, strict=True)
    return [step for step, after in pairs if part(step.layer) != after or step.value in OUTPUTS]


def _floats(model: onnx.ModelProto) -> dict[str, onnx.ValueInfoProto]:
    values = [*model.graph.value_info, *model.graph.output]
    return {value.name: value for value in values if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}


def _block(layer: str) -> str:
    """`sequence_attention.blocks.3` of `sequence_attention.blocks.3.mlp.0`."""
    numbered = re.match(r".*?\.\d+(?=\.|$)", layer)
    return numbered.group() if numbered else layer


def _deviations(
    model: onnx.ModelProto, steps: Sequence[_Step], inputs: Arrays, candidate: Candidate, limit: float
) -> Iterator[Deviation]:
    """Those of the steps that are beyond the limit, from one run of both sides with all their values given out."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    floats, given_out = _floats(model), {output.name for output in model.graph.output}
    exposed.graph.output.extend(floats[step.value] for step in steps if step.value not in given_out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exposed.onnx")
        onnx.save(exposed, path)
        right, actual = onnx_runtime(path, inputs), candidate(path, inputs)
    for step in steps:
        error = relative_error(right[step.value], actual[step.value])
        if error > limit:
            yield Deviation(*step, error)
