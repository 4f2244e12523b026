"""The network of the default recipe, all its parts at once, in every form that is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import tensorrt_rtx
import torch
from tiny import TASKS, tiny_bundle_config, tiny_config, tiny_network

from model.bundle import Bundle, load_bundle, save_bundle
from model.cma_clip import Network
from model.image_statistics import FEATURES
from model.wide import Linear
from serve.engines import INPUTS, OUTPUTS
from serve.engines.openvino import OpenVINOEngine
from serve.export.graph import write_onnx
from serve.export.mixed_precision import PRODUCTS, module_scopes, write_mixed
from serve.export.parity import Inputs, random_inputs
from serve.export.plan import build_log, parse
from serve.export.torch_package import ServedNetwork, export_program
from train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
SETTINGS = {"sequence_norm": "gated", "head_inputs": "both", "wide": True, "convolutions": True}
TOLD = TASKS.with_mismatch()


def network(**settings: object) -> Network:
    """With weights that are not small, gates that are open among them, and a wide part that speaks."""
    made = tiny_network(tiny_config(**SETTINGS | settings), TOLD)
    assert made.wide is not None
    for parameter in made.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    ids, _, _ = random_inputs(tiny_bundle_config(tasks=TOLD), 20, 16, seed=1)
    made.wide.fit(made.wide.statistics(smooth_images(20)), torch.from_numpy(ids))
    generator = torch.Generator().manual_seed(3)
    for number, task in enumerate(TASKS):
        sizes = (task.columns,), (made.wide.terms.rows, task.columns), (FEATURES, task.columns)
        models = [Linear(*(0.5 * torch.randn(size, generator=generator) for size in sizes)) for _ in range(3)]
        made.wide.set_task(number, torch.randn(task.columns, generator=generator), models)
    made.wide.join(torch.tensor([[0.4, 0.8, 0.3], [0.9, 0.6, 1.1]]))
    return made.eval()


def smooth_images(count: int) -> torch.Tensor:
    """Waves of all lengths: of noise alone, a sum that is rounded looks like any other."""
    rng, place = np.random.default_rng(0), np.arange(64)
    waves = [127 + 120 * np.sin(place * rng.uniform(0.05, 3) + channel) for channel in range(3) for _ in range(count)]
    striped = np.stack(waves).reshape(count, 3, 1, 64).transpose(0, 2, 3, 1) * np.ones((1, 64, 1, 1))
    return torch.from_numpy(striped.astype(np.uint8))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("robust") / "bundle"
    save_bundle(directory, tiny_bundle_config(tiny_config(**SETTINGS), TOLD), network())
    return load_bundle(directory)


@pytest.fixture(scope="module")
def graph(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robust") / "model.onnx"
    write_onnx(bundle, path)
    return path


@pytest.fixture(scope="module")
def mixed(graph: Path) -> dict[str, Path]:
    paths = {precision: graph.with_name(f"{precision}.onnx") for precision in ("f16", "bf16")}
    for precision, path in paths.items():
        write_mixed(graph, path, precision)
    return paths


def inputs_of(bundle: Bundle, batch: int) -> Inputs:
    ids, _, present = random_inputs(bundle.config, batch, 24, seed=0)
    return ids, smooth_images(batch).numpy(), present


@torch.no_grad()
def expected(bundle: Bundle, inputs: Inputs) -> list[np.ndarray]:
    return [part.numpy() for part in bundle.network(*map(torch.from_numpy, inputs))]


def test_it_is_the_default_recipes():
    recipe = load_recipe(ROOT / "train/recipes/robust.yaml", [])
    assert SETTINGS.items() <= recipe.model.model_dump().items() and recipe.mismatch


@torch.no_grad()
def test_each_part_has_a_say(bundle: Bundle):
    inputs = tuple(map(torch.from_numpy, inputs_of(bundle, 4)))
    logits, share = network()(*inputs)
    for without in ("strengths", "words", "statistics_to_logits", "intercepts"):
        changed = network()
        changed.wide.get_buffer(without).zero_()
        assert not torch.allclose(changed(*inputs).logits_BC, logits, atol=1e-2)
    changed = network()
    changed.wide.frequent.fill_(1.0)
    assert not torch.allclose(changed(*inputs).text_share_BK, share, atol=1e-2), "evidence"


@pytest.mark.parametrize("batch", [1, 5])
def test_the_graph_takes_any_batch(bundle: Bundle, graph: Path, batch: int):
    inputs = inputs_of(bundle, batch)
    found = onnxruntime.InferenceSession(str(graph)).run(None, dict(zip(INPUTS, inputs, strict=True)))
    for part, exact in zip(found, expected(bundle, inputs), strict=True):
        np.testing.assert_allclose(part, exact, rtol=1e-3, atol=1e-3)


def test_openvino_computes_it_in_float32_wherever_it_runs(bundle: Bundle, graph: Path):
    engine, inputs = OpenVINOEngine(graph, {}), inputs_of(bundle, 4)
    assert engine.precision == "f32"
    for part, exact in zip(engine(*inputs), expected(bundle, inputs), strict=True):
        np.testing.assert_allclose(part, exact, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_no_product_of_the_wide_part_is_narrowed(mixed: dict[str, Path], precision: str):
    nodes = [node for node in ir.load(mixed[precision]).graph if node.op_type in PRODUCTS]
    types: dict[bool, set[ir.DataType]] = {True: set(), False: set()}
    for node in nodes:
        types["wide" in module_scopes(node)].add(node.outputs[0].dtype)
    assert types[True] == {ir.DataType.FLOAT} and len(types[False]) == 2


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_tensorrts_parser_takes_it(mixed: dict[str, Path], precision: str):
    log = build_log(tensorrt_rtx)
    builder = tensorrt_rtx.Builder(log)
    definition, _ = parse(tensorrt_rtx, builder, log, mixed[precision])
    assert {definition.get_output(i).name for i in range(definition.num_outputs)} == set(OUTPUTS)


def test_the_package_for_a_gpu_takes_any_batch_and_rounds_no_weight_of_the_wide_part(bundle: Bundle):
    served = ServedNetwork(network(), "bf16")
    program = export_program(served, bundle, "cpu")
    ranges = sorted((int(limits.lower), int(limits.upper)) for limits in program.range_constraints.values())
    assert ranges == [(1, 64), (2, 77)]
    weights = (*served.named_parameters(), *served.named_buffers())
    own = {weight.dtype for name, weight in weights if ".wide." in name and weight.is_floating_point()}
    assert own == {torch.float32}


@torch.no_grad()
def test_the_fused_kernels_answer_as_plain_pytorch(bundle: Bundle):
    fused, inputs = network(kernels="triton"), inputs_of(bundle, 3)
    found = fused(*map(torch.from_numpy, inputs))
    for part, exact in zip(found, expected(bundle, inputs), strict=True):
        np.testing.assert_allclose(part.numpy(), exact, rtol=1e-3, atol=1e-3)
