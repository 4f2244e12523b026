"""The network as an AOTInductor package: equal to torch for the CPU, and its graph for a GPU that need not be there."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import ROOT, TASKS, tiny_bundle_config, tiny_network
from torch import Tensor, nn

from model.bundle import Bundle, load_bundle, save_bundle
from model.config import ModelConfig
from model.sequence_attention import Block
from model.tasks import MultiLabel
from serve.engines.torch import TorchEngine
from serve.export import torch_package
from serve.export.parity import random_inputs
from serve.export.torch_package import HeadsAsBatch, PackedAttention, ServedNetwork, build_package


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("torch") / "bundle"
    tasks = [*TASKS, MultiLabel(name="tags", labels=["a", "b", "c"])]
    save_bundle(directory, tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    return load_bundle(directory)


@pytest.fixture(scope="module")
def package(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled once, for the CPU in float32."""
    path = tmp_path_factory.mktemp("package") / "model.pt2"
    before = copy.deepcopy(bundle.network.state_dict())
    versions = build_package(bundle, path, "cpu", "f32")
    assert versions == {"torch": str(torch.__version__), "cpu": torch.backends.cpu.get_cpu_capability()}
    after = bundle.network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return path


@pytest.fixture(scope="module")
def engine(package: Path) -> TorchEngine:
    return TorchEngine(package, {"device": "auto", "threads": "2"})


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (1, 77), (2, 16), (7, 76), (63, 3), (64, 33)])
def test_E1_E2_the_package_equals_torch(engine: TorchEngine, bundle: Bundle, batch: int, length: int):
    inputs = random_inputs(bundle.config, batch, length, seed=length)
    actual = engine(*inputs)
    with torch.no_grad():
        expected = bundle.network(*map(torch.from_numpy, inputs))
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_the_layout_of_the_arrays_does_not_matter(engine: TorchEngine, bundle: Bundle):
    input_ids, pixels, present = random_inputs(bundle.config, 7, 16, seed=0)
    others = engine(input_ids.astype(np.int64), np.asfortranarray(pixels), present[:, ::-1].copy()[:, ::-1])
    for ours, theirs in zip(engine(input_ids, pixels, present), others, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_batch_beyond_the_compiled_range_is_refused(engine: TorchEngine, bundle: Bundle):
    with pytest.raises(ValueError, match="a batch of 65, the package takes at most 64"):
        engine(*random_inputs(bundle.config, 65, 2, seed=0))


def test_the_engine_knows_what_it_was_compiled_for(engine: TorchEngine):
    assert (engine.precision, engine.device.type) == ("f32", "cpu")
    assert engine.machine()[0] == {
        "torch": str(torch.__version__),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def test_the_package_holds_code_and_weights_and_no_pickle(package: Path):
    names = [Path(name) for name in zipfile.ZipFile(package).namelist()]
    assert {name.suffix for name in names} <= {"", ".cpp", ".so", ".json", ".h", ".o"}
    assert [name for name in names if name.suffix == ".so"]


def test_the_gpu_of_a_server_instance_means_nothing_to_a_package_for_the_cpu(package: Path):
    assert TorchEngine(package, {"device": "auto", "gpu": "3"}).device == torch.device("cpu")


@pytest.mark.parametrize("given", ["auto", "cuda:1"])
def test_the_gpu_of_a_server_instance_is_what_auto_means(package: Path, monkeypatch: pytest.MonkeyPatch, given: str):
    """As far as a machine without a GPU can tell: the package is said to be for one, and is asked to load there."""
    loader, asked = torch._C._aoti.AOTIModelPackageLoader, []
    metadata = loader.load_metadata_from_package(str(package), "model") | {"AOTI_DEVICE_KEY": "cuda"}
    stand_in = SimpleNamespace(load_metadata_from_package=lambda *_: metadata)
    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", stand_in)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda *_, device_index, **__: asked.append(device_index))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    engine = TorchEngine(package, {"device": given, "gpu": "3"})
    number = 3 if given == "auto" else 1
    assert asked == [number] and engine.device == torch.device(f"cuda:{number}")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"INFERENCE_PRECISION_HINT": "f32"}, "parameters .* are unknown"),
        ({"threads": "many"}, "threads is 'many', expected auto or a number from 1"),
        ({"threads": "0"}, "threads is '0'"),
        ({"device": "gpu"}, "model.pt2: torch cannot load it"),
        ({"device": "meta"}, "compiled for cpu, but parameter device is 'meta'"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(package: Path, parameters: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message) as error:
        TorchEngine(package, parameters)
    assert "\n" not in str(error.value)


def test_a_damaged_package_is_refused_in_one_line(package: Path, tmp_path: Path):
    damaged = tmp_path / "model.pt2"
    damaged.write_bytes(package.read_bytes()[:10_000])
    with pytest.raises(ValueError, match="model.pt2: torch cannot load it") as error:
        TorchEngine(damaged, {})
    assert "\n" not in str(error.value)


def test_what_cannot_be_compiled_is_refused(bundle: Bundle, tmp_path: Path):
    with pytest.raises(ValueError, match="precision 'f16' of the torch runtime: expected f32 or bf16"):
        build_package(bundle, tmp_path / "model.pt2", "cpu", "f16")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="compiled on such a GPU, and torch finds none here"):
            build_package(bundle, tmp_path / "model.pt2", "cuda", "bf16")
    assert not any(tmp_path.iterdir())


def test_a_machine_without_a_compiler_is_told_so_in_one_line(bundle: Bundle, tmp_path: Path, monkeypatch):
    small = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    monkeypatch.setattr(torch_package, "export_program", lambda *_: small)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, "/nowhere/g++"))
    with torch._inductor.utils.fresh_cache(), pytest.raises(ValueError, match="needs g\\+\\+.*InvalidCxxComp") as error:
        build_package(bundle, tmp_path / "model.pt2", "cpu", "f32")
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())


@pytest.mark.parametrize("causal", [False, True])
def test_packed_attention_is_multi_head_attention(causal: bool):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(32, 4, batch_first=True).double().eval()
    x_BTV = torch.randn(3, 9, 32, dtype=torch.float64)
    mask_TT = torch.full((9, 9), -torch.inf, dtype=torch.float64).triu(1) if causal else None
    expected, _ = attention(x_BTV, x_BTV, x_BTV, need_weights=False, attn_mask=mask_TT)
    actual, _ = PackedAttention(attention)(x_BTV, x_BTV, x_BTV, need_weights=False, attn_mask=mask_TT)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_heads_in_the_batch_are_the_blocks_own_attention():
    torch.manual_seed(0)
    block = Block(ModelConfig(sequence_heads=4), 32).double().eval()
    x_BSD, mask_BS = torch.randn(3, 9, 32, dtype=torch.float64), torch.rand(3, 9) < 0.7
    mask_BS[:, 0] = True
    expected = block(x_BSD, mask_BS)
    block.__class__ = HeadsAsBatch
    torch.testing.assert_close(block(x_BSD, mask_BS), expected, rtol=1e-12, atol=1e-12)


def test_E1_bf16_is_autocast_with_the_weights_rounded_once(bundle: Bundle):
    """No farther from float32 than twice autocast's own distance; norms, embeddings and λ's vector stay float32."""
    inputs = tuple(map(torch.from_numpy, random_inputs(bundle.config, 16, 24, seed=1)))
    served = ServedNetwork(copy.deepcopy(bundle.network), "bf16")
    with torch.no_grad():
        exact, ours = bundle.network(*inputs), served(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = bundle.network(*inputs)
    for precise, rival, tensor in zip(exact, autocast, ours, strict=True):
        assert tensor.dtype == torch.float32
        assert 0 < error(tensor, precise) <= 2 * error(rival, precise) + 1e-6
    rounded = {name for name, weight in served.named_parameters() if weight.dtype == torch.bfloat16}
    kept = {name for name, _ in served.named_parameters()} - rounded
    assert all(any(word in name for word in ("weight", "bias", "proj")) for name in rounded)
    for part in ("ln_1", "ln_2", "norm", "embedding", "position", "relevance", "head.hidden_bias", "logit_scale"):
        assert not any(part in name for name in rounded), part
    assert {"network.modality_heads.relevance", "network.towers.clip.token_embedding.weight"} <= kept


def error(tensor: Tensor, exact: Tensor) -> float:
    return float((tensor.double() - exact.double()).abs().max())


def test_the_full_size_graph_for_a_gpu_has_the_fused_kernels_and_training_precision():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "tests/support/traced_network.py"],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    counts = {"aten.linear": 144, "aten.layer_norm": 76, "aten.scaled_dot_product_attention": 36}
    assert found["operators"] == counts | {"cma_clip.modality_heads": 1}
    assert found["inputs"]["aten.linear"] == [["bfloat16"] * 3]
    assert found["inputs"]["aten.layer_norm"] == [["float32"] * 3]
    assert found["inputs"]["aten.scaled_dot_product_attention"] == [["bfloat16"] * 3, ["bfloat16"] * 3 + ["bool"]]
    text, image, present, relevance, w1, b1, w2, b2, first_label = found["inputs"]["cma_clip.modality_heads"][0]
    assert {relevance, b1, b2, text, image} == {"float32"} and {w1, w2} == {"bfloat16"}
    ((row_tiles, splits, tasks),) = found["grids"]
    assert (splits, tasks) == ("8", "2") and not row_tiles.isdecimal()  # the batch is no constant of the launch
    assert found["ranges"] == [[1, 64], [2, 77]]
    assert found["outputs"] == [["torch.float32", 2], ["torch.float32", 29]]
    assert all("positional_embedding" in name for name in found["weights_rounded_in_each_call"])
