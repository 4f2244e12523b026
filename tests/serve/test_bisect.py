"""The first layer that goes wrong is the one that is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from mixed_files import break_layer, tiny_bundle, tiny_graphs
from rounded import rounded_session

from serve.engines import INPUTS
from serve.export.bisect import Arrays, first_deviation, relative_error
from serve.export.mixed_precision import write_mixed
from serve.export.parity import random_inputs
from serve.export.tensorrt import LAYER_LIMITS


class Rounding:
    """An engine with 16-bit products whose layer `broken` multiplies by other weights.

    only_fused: only where few values are given out, as if by a wrong fusion.
    given_out: how many values each of its runs gave out.
    """

    def __init__(
        self, precision: str, broken: str | None = None, factor: float = 1.5, only_fused: bool = False
    ) -> None:
        self.precision, self.broken, self.factor, self.only_fused = precision, broken, factor, only_fused
        self.given_out: list[int] = []

    def __call__(self, path: Path, inputs: Arrays) -> Arrays:
        mixed = path.with_name("mixed.onnx")
        write_mixed(path, mixed, self.precision)
        names = [output.name for output in onnx.load(mixed).graph.output]
        self.given_out.append(len(names))
        if self.broken and (len(names) < 30 or not self.only_fused):
            break_layer(mixed, self.broken, self.factor)
        session = rounded_session(mixed)
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


@pytest.fixture(scope="module")
def graph() -> Path:
    return tiny_graphs() / "model.onnx"


@pytest.fixture(scope="module")
def inputs() -> Arrays:
    return dict(zip(INPUTS, random_inputs(tiny_bundle().config, 3, 24, seed=0), strict=True))


@pytest.mark.parametrize(
    "layer",
    [
        "towers.clip.transformer.resblocks.1.mlp.c_fc",
        "towers.clip.visual.conv1",
        "towers.clip.visual.transformer.resblocks.2.attn",
        "sequence_attention.blocks.0.qkv",
        "sequence_attention.blocks.1.mlp.2",
    ],
)
def test_E6_the_layer_with_the_fault_is_named(graph: Path, inputs: Arrays, layer: str):
    engine = Rounding("f16", layer)
    found = first_deviation(graph, inputs, engine, LAYER_LIMITS["f16"])
    assert found is not None and found.layer == layer and found.error > LAYER_LIMITS["f16"]
    assert engine.given_out == [75]  # every layer, once


def test_E6_a_fault_that_fusing_makes_is_named_by_its_block(graph: Path, inputs: Arrays):
    engine = Rounding("f16", "towers.clip.visual.transformer.resblocks.1.mlp.c_proj", only_fused=True)
    found = first_deviation(graph, inputs, engine, LAYER_LIMITS["f16"])
    assert found is not None and found.layer == "towers.clip.visual.transformer.resblocks.1"
    assert engine.given_out == [75, 22]


def test_E6_nan_is_a_deviation(graph: Path, inputs: Arrays):
    found = first_deviation(graph, inputs, Rounding("f16", "sequence_attention.blocks.0.mlp.0", 1e30), 1e6)
    assert found is not None and found.layer == "sequence_attention.blocks.0.mlp.0" and found.error == np.inf


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_a_sound_engine_has_none(graph: Path, inputs: Arrays, precision: str):
    assert first_deviation(graph, inputs, Rounding(precision), LAYER_LIMITS[precision]) is None
    strict = first_deviation(graph, inputs, Rounding(precision), 1e-5)
    assert strict is not None and strict.error < LAYER_LIMITS[precision] / 3


def test_the_error_is_relative_to_the_largest_value():
    right = np.array([4.0, -8.0, 0.0, -np.inf])
    assert relative_error(right, right) == 0
    assert relative_error(right, right + [0, 0.5, 1, 0]) == 1 / 8
    assert relative_error(right, np.array([4.0, np.nan, 0.0, -np.inf])) == np.inf
    assert relative_error(right, np.array([4.0, -8.0, 0.0, -3e38])) == np.inf
