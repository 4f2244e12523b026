"""TensorRT plans: built by TensorRT-RTX, which needs no GPU; what can be refused without one is."""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import full_size
import onnx
import pytest
import tensorrt_rtx
import torch
from google.protobuf import text_format
from mixed_files import break_layer, tiny_bundle, tiny_graphs
from rounded import rounded_session
from tritonclient.grpc import model_config_pb2

from model.config import BundleConfig, PreprocessConfig
from serve.engines import INPUTS
from serve.engines.tensorrt import choose_profile, library_version
from serve.export import plan as plans
from serve.export import tensorrt as tensorrt_engine
from serve.export.bisect import Arrays
from serve.export.built import Target
from serve.export.mixed_precision import write_mixed
from serve.export.plan import LARGEST_BATCH, add_profile, build_engine, import_tensorrt, parse
from serve.export.tensorrt import main
from serve.runtimes import engine_class, load_engine
from serve.stamp import EngineStamp

CONFIG = Path(__file__).parents[2] / "deploy/engine/config.pbtxt"
NARROW = {"f16": "HALF", "bf16": "BF16"}
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")


@functools.cache
def full_size_mixed(precision: str) -> Path:
    graph = full_size.exported().deploy / "engine/1/model.onnx"
    write_mixed(graph, graph.parents[3] / f"{precision}.onnx", precision)
    return graph.parents[3] / f"{precision}.onnx"


def shapes(preprocess: PreprocessConfig) -> tuple[tuple[int, ...], int]:
    return preprocess.title_lengths, preprocess.image_size


@pytest.fixture(scope="module")
def builder() -> Any:
    return tensorrt_rtx.Builder(log())


@functools.cache
def log() -> Any:
    return plans.build_log(tensorrt_rtx)


def layers(network: Any) -> Iterator[tuple[str, str, set[str]]]:
    """Type, ONNX node and the floating types of what goes in and out of every layer."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensors = [layer.get_input(i) for i in range(layer.num_inputs)]
        tensors += [layer.get_output(i) for i in range(layer.num_outputs)]
        types = {tensor.dtype.name for tensor in tensors if tensor is not None}
        yield layer.type.name, layer.name, types & {"FLOAT", "HALF", "BF16"}


def check_types(network: Any, narrow: str, blocks: int) -> None:
    """Products are narrow but in the heads; norms, softmax, GELU and sigmoid, sums and λ are float32."""
    kinds = Counter((kind, *sorted(types)) for kind, _, types in layers(network) if types)
    assert {key for key in kinds if key[0] == "NORMALIZATION"} == {("NORMALIZATION", "FLOAT")}
    assert {key for key in kinds if key[0] == "SOFTMAX"} == {("SOFTMAX", "FLOAT")}
    assert {key for key in kinds if key[0] in ("ACTIVATION", "REDUCE", "UNARY")} <= {
        (kind, "FLOAT") for kind in ("ACTIVATION", "REDUCE", "UNARY")
    }
    assert kinds["SOFTMAX", "FLOAT"] == blocks
    assert kinds["CONVOLUTION", narrow] == 1 and kinds["REDUCE", "FLOAT"] == 1
    assert kinds["MATRIX_MULTIPLY", "FLOAT"] == 2 * 2  # two heads of two layers
    assert kinds["MATRIX_MULTIPLY", narrow] == 6 * blocks + 3
    outputs = {network.get_output(i).name: network.get_output(i).dtype.name for i in range(network.num_outputs)}
    assert outputs == {"logits": "FLOAT", "text_share": "FLOAT"}
    inputs = {network.get_input(i).name: network.get_input(i).dtype.name for i in range(network.num_inputs)}
    assert inputs == dict(zip(INPUTS, ("INT32", "UINT8", "BOOL"), strict=True))


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_E6_the_full_size_network_is_parsed_with_the_types_of_the_graph(builder: Any, precision: str):
    network, _ = parse(tensorrt_rtx, builder, log(), full_size_mixed(precision))
    check_types(network, NARROW[precision], blocks=36)


@pytest.mark.parametrize("precision", ["f16", "bf16"])
def test_E6_the_tiny_network_is_parsed_with_the_types_of_the_graph(builder: Any, precision: str):
    network, _ = parse(tensorrt_rtx, builder, log(), tiny_graphs() / f"{precision}.onnx")
    check_types(network, NARROW[precision], blocks=7)


def test_the_full_size_network_is_built_with_every_profile(tmp_path: Path):
    preprocess = BundleConfig.read(full_size.bundle_dir() / "config.json").preprocess
    target = build_engine(tensorrt_rtx, full_size_mixed("f16"), tmp_path / "model.plan", *shapes(preprocess))
    assert target == Target({"tensorrt_rtx": library_version(tensorrt_rtx)})
    size = (tmp_path / "model.plan").stat().st_size
    assert 2 * 189e6 < size < 4 * 189e6, "weights in 16 bits, once for all profiles"


def test_the_command_builds_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle, plan = tiny_graphs() / "bundle", tmp_path / "model.plan"
    assert main([str(bundle), "--output", str(plan), "--module", "tensorrt_rtx", "--precision", "bf16"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{plan}: ") and "bf16, tensorrt_rtx 1." in printed
    assert printed.endswith("for several kinds of GPUs\n")
    assert {path.name for path in tmp_path.iterdir()} == {"model.plan"}  # no timing cache: RTX measures nothing
    # Without a GPU the plan cannot be run, but its weights stand in it byte for byte, where it has not repacked them.
    graph, content = onnx.load(tiny_graphs() / "bf16.onnx").graph, plan.read_bytes()
    used = {name for node in graph.node for name in node.input}
    weights = [onnx.numpy_helper.to_array(weight) for weight in graph.initializer if weight.name in used]
    large = [weight for weight in weights if weight.nbytes > 400]
    assert len(large) == 95 and sum(weight.tobytes() in content for weight in large) >= 85


def test_E6_the_first_wrong_layer_of_a_plan_is_found(monkeypatch: pytest.MonkeyPatch):
    """TensorRT-RTX builds the plans that give out their layers; in their place their graphs are run, with one fault."""
    sizes = []

    class Runs:
        def __init__(self, plan: Path, parameters: dict[str, str]) -> None:
            sizes.append(plan.stat().st_size)
            self.graph = plan.with_name("mixed.onnx")

        def run(self, inputs: Arrays) -> Arrays:
            break_layer(self.graph, "sequence_attention.blocks.1.mlp.0", 1.5)
            session = rounded_session(self.graph)
            names = [output.name for output in session.get_outputs()]
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    monkeypatch.setattr(tensorrt_engine, "TensorRTEngine", Runs)
    monkeypatch.setattr(tensorrt_engine, "write_onnx", lambda _, path: shutil.copy(tiny_graphs() / "model.onnx", path))
    words = tensorrt_engine.first_wrong_layer(tiny_bundle(), "f16", "tensorrt_rtx")
    assert words.startswith(
        "the first layer off by more than 2% of its largest value is sequence_attention.blocks.1.mlp.0"
    )
    assert len(sizes) == 1 and sizes[0] > 1e6


def test_each_title_length_has_its_profile_up_to_the_servers_largest_batch(builder: Any):
    preprocess = tiny_bundle().config.preprocess
    config = text_format.Parse(CONFIG.read_text(), model_config_pb2.ModelConfig())
    assert list(config.instance_group[0].profile) == [str(i) for i in range(len(preprocess.title_lengths))]
    assert config.max_batch_size == LARGEST_BATCH
    assert config.optimization.cuda.graphs and not config.optimization.cuda.graph_spec
    kept: list[Any] = []
    build_config = SimpleNamespace(add_optimization_profile=kept.append)
    for length in preprocess.title_lengths:
        add_profile(builder, build_config, length, preprocess.image_size)
    for length, profile in zip(preprocess.title_lengths, kept, strict=True):
        smallest, _, largest = profile.get_shape("input_ids")
        assert (tuple(smallest), tuple(largest)) == ((1, length), (LARGEST_BATCH, length))
        assert [tuple(shape)[0] for shape in profile.get_shape("pixels")] == [1, 16, LARGEST_BATCH]


def test_what_cannot_be_built_is_refused_in_one_line(builder: Any, tmp_path: Path, capsys):
    preprocess, f16 = tiny_bundle().config.preprocess, tiny_graphs() / "f16.onnx"
    plan = tmp_path / "model.plan"
    with pytest.raises(ValueError, match=r"model.onnx: tensorrt_rtx refuses node 'node_permute.*UInt8") as error:
        parse(tensorrt_rtx, builder, log(), tiny_graphs() / "model.onnx")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"f16.onnx: tensorrt_rtx 1[.\d]+ cannot build it: .*tensor pixels"):
        build_engine(tensorrt_rtx, f16, plan, preprocess.title_lengths, 63)
    assert main([str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not plan.exists()


def test_a_missing_library_says_how_to_install_it():
    with pytest.raises(ValueError, match="the package tensorrt is not installed here: pip install tensorrt"):
        import_tensorrt("tensorrt")


@without_gpu
def test_tensorrt_itself_builds_and_runs_on_a_gpu_only(tmp_path: Path):
    with pytest.raises(ValueError, match="tensorrt builds on the GPU that will serve, and there is none here"):
        plans.check_gpu(SimpleNamespace(__name__="tensorrt"))
    with pytest.raises(ValueError, match=r"model.plan: no such file"):
        load_engine("tensorrt", tmp_path / "model.plan", {})
    (tmp_path / "model.plan").write_bytes(b"plan")
    with pytest.raises(ValueError, match=r"model.plan: a TensorRT plan runs on a GPU, and there is none here"):
        load_engine("tensorrt", tmp_path / "model.plan", {})


def test_a_batch_goes_to_the_profile_of_its_title_length():
    lengths = [16, 24, 32, 48, 77]
    assert [choose_profile(lengths, length) for length in lengths] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"titles of 17 ids, the plan has profiles for \[16, 24, 32, 48, 77\]"):
        choose_profile(lengths, 17)


def test_F8_a_plan_of_another_library_or_gpu_is_refused_with_both_and_the_cure(tmp_path: Path):
    versions, capability = engine_class("tensorrt").machine()
    assert versions["tensorrt_rtx"] == library_version(tensorrt_rtx)
    plan = tmp_path / "deploy/engine/1/model.plan"
    stamp = EngineStamp(
        runtime="tensorrt",
        precision="f16",
        bundle_sha256="b",
        versions={"tensorrt_rtx": "1.0.0.1"},
        gpu="NVIDIA H100",
        compute_capability="9.0",
    )
    rebuild = f"python -m serve.export BUNDLE --deploy {tmp_path}/deploy --runtime tensorrt"
    both = f"built with tensorrt_rtx 1.0.0.1, here is {versions['tensorrt_rtx']}"
    assert stamp.mismatch(plan, "b", versions, capability) == f"{plan}: {both}; rebuild: {rebuild}"
    same = stamp.model_copy(update={"versions": versions})
    both = "built for NVIDIA H100 (compute capability 9.0), here is 8.9"
    assert same.mismatch(plan, "b", versions, "8.9") == f"{plan}: {both}; rebuild: {rebuild}"
    assert same.mismatch(plan, "b", versions, "9.0") is None


def test_versions_are_the_librarys_four_numbers():
    assert library_version(SimpleNamespace(__version__="10.14.1.48.post1")) == "10.14.1.48"
    assert library_version(SimpleNamespace(__version__="11.4.0.106")) == "11.4.0.106"
