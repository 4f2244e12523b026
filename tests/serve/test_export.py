"""Bundle to ONNX to a model repository: parity, and that nothing half-made is ever published."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import ROOT, TASKS, tiny_bundle_config, tiny_network

from cma_clip.command import Failure
from cma_clip.files import file_sha256
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from model.tasks import MultiLabel
from serve.engines import INPUTS
from serve.export import graph, publish
from serve.export.__main__ import main
from serve.export.parity import compare, random_inputs
from serve.export.publish import export
from serve.runtimes import load_engine
from serve.stamp import EngineStamp


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "bundle"
    tasks = [*TASKS, MultiLabel(name="tags", labels=["a", "b", "c"])]
    save_bundle(directory, tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    return directory


@pytest.fixture(scope="module")
def deploy(bundle_dir: Path) -> Path:
    export(bundle_dir, bundle_dir.parent / "deploy")
    return bundle_dir.parent / "deploy"


def test_a_complete_repository(deploy: Path, bundle_dir: Path):
    assert {path.name for path in deploy.iterdir() if path.is_dir()} == {
        "cma_clip",
        "preprocess",
        "tokenize",
        "engine",
        "decode",
    }
    assert (deploy / "tokenizer.json").read_bytes() == (bundle_dir / "tokenizer.json").read_bytes()
    assert BundleConfig.read(deploy / "bundle.json") == BundleConfig.read(bundle_dir / "config.json")
    engine = {path.name for path in (deploy / "engine/1").iterdir() if path.name != "__pycache__"}
    assert engine == {"model.onnx", "model.onnx.json", "engine_step.py"}


def test_E3_the_graph_is_plain_onnx_with_dynamic_batch_and_length(deploy: Path):
    model = onnx.load(deploy / "engine/1/model.onnx")
    assert {opset.domain for opset in model.opset_import if opset.domain} == set()
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    assert shapes["pixels"][1:] == [64, 64, 3] and shapes["present"][1:] == [2]
    assert shapes["logits"][1:] == [8] and shapes["text_share"][1:] == [3]
    assert isinstance(shapes["input_ids"][1], str)
    assert all(isinstance(shape[0], str) for shape in shapes.values())


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (2, 16), (7, 77), (5, 33)])
def test_E1_E2_onnx_equals_torch(deploy: Path, bundle_dir: Path, batch: int, length: int):
    bundle = load_bundle(bundle_dir)
    inputs = random_inputs(bundle.config, batch, length, seed=length)
    session = onnxruntime.InferenceSession(deploy / "engine/1/model.onnx", providers=["CPUExecutionProvider"])
    actual = session.run(["logits", "text_share"], dict(zip(INPUTS, inputs, strict=True)))
    with torch.no_grad():
        expected = bundle.network(*map(torch.from_numpy, inputs))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_the_stamp_says_what_was_compared(deploy: Path):
    stamp = EngineStamp.read(deploy / "engine/1/model.onnx")
    assert (stamp.runtime, stamp.precision, stamp.versions, stamp.compute_capability) == ("openvino", "f32", {}, None)
    assert stamp.bundle_sha256 == file_sha256(deploy / "bundle.json")
    graph, served = stamp.parity.values()
    assert graph["passed"] and graph["flips"] == 0 and (graph["cases"], graph["products"]) == (21, 70)
    assert graph["probability_difference"] < 1e-5
    assert served["passed"] and set(served["tasks"]) == {"color", "pattern", "tags"}


def test_every_difference_is_found_and_laid_to_its_task(bundle_dir: Path):
    bundle = load_bundle(bundle_dir)

    def run(*inputs):
        with torch.no_grad():
            logits, share = (output.numpy().copy() for output in bundle.network(*map(torch.from_numpy, inputs)))
        logits[0, :3] = [9, 0, 0] if logits[0, 0] < logits[0, 1] else [0, 9, 0]
        share[0, 1] += 0.25
        return logits, share

    cases = iter([random_inputs(bundle.config, 2, 16, seed) for seed in range(3)])
    report = compare(bundle, run, "f32", cases)
    color, pattern, tags = report["tasks"].values()
    assert not report["passed"] and report["flips"] == color["flips"] == 3
    assert color["probability"] > 0.3 and color["text_share"] == 0
    assert pattern["text_share"] == pytest.approx(0.25) and pattern["probability"] == tags["probability"] == 0


def test_E6_nan_does_not_pass(bundle_dir: Path):
    bundle = load_bundle(bundle_dir)
    report = compare(bundle, lambda ids, *_: (np.full((len(ids), 8), np.nan), np.full((len(ids), 3), np.nan)), "int8")
    assert not report["passed"]


def test_an_engine_of_the_same_bundle_stays(bundle_dir: Path, deploy: Path, tmp_path: Path):
    copy = Path(shutil.copytree(deploy, tmp_path / "deploy"))
    plan, stale = copy / "engine/1/model.plan", copy / "engine/1/model.pt2"
    for engine, bundle_sha256 in ((plan, file_sha256(copy / "bundle.json")), (stale, "of another bundle")):
        engine.write_bytes(b"engine")
        EngineStamp(runtime="tensorrt", precision="f16", bundle_sha256=bundle_sha256).write(engine)
    export(bundle_dir, copy)
    assert EngineStamp.read(plan).runtime == "tensorrt" and plan.read_bytes() == b"engine"
    assert not stale.exists() and load_engine("openvino", copy / "engine/1/model.onnx", {})


@pytest.mark.parametrize(
    ("here", "problem"),
    [
        (("other", {"tensorrt": "10.14"}, "9.0"), "was not exported together with bundle.json"),
        (("bundle", {"tensorrt": "10.3"}, "9.0"), "built with tensorrt 10.14, here is 10.3"),
        (("bundle", {}, "9.0"), "built with tensorrt 10.14, here is none"),
        (("bundle", {"tensorrt": "10.14"}, "8.9"), r"built for H100 \(compute capability 9.0\), here is 8.9"),
        (("bundle", {"tensorrt": "10.14"}, None), r"built for H100 \(compute capability 9.0\), here is no GPU"),
    ],
)
def test_F8_an_engine_for_another_machine_is_refused(tmp_path: Path, here, problem):
    engine = tmp_path / "deploy/engine/1/model.plan"
    stamp = EngineStamp(
        runtime="tensorrt",
        precision="f16",
        bundle_sha256="bundle",
        versions={"tensorrt": "10.14"},
        gpu="H100",
        compute_capability="9.0",
    )
    reason = stamp.mismatch(engine, *here)
    rebuild = f"python -m serve.export BUNDLE --deploy {tmp_path}/deploy --runtime tensorrt"
    assert re.search(problem, reason) and reason.endswith(rebuild) and "\n" not in reason
    assert stamp.mismatch(engine, "bundle", {"tensorrt": "10.14", "other": "1"}, "9.0") is None


def test_parity_inputs_cover_every_mix_of_modalities():
    input_ids, _, present = random_inputs(tiny_bundle_config(), 7, 16, seed=0)
    assert {tuple(row) for row in present.tolist()} == {(True, True), (True, False), (False, True)}
    assert (input_ids.argmax(axis=1) >= 1).all() and input_ids[0].argmax() == 15


def test_E5_a_graph_that_differs_is_not_published(bundle_dir: Path, deploy: Path, tmp_path: Path, monkeypatch):
    copy = Path(shutil.copytree(deploy, tmp_path / "deploy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    write = graph.write_onnx

    def write_another(bundle, path):
        write(bundle, path)
        model = onnx.load(path)
        (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "modality_heads.output_bias"]
        values = onnx.numpy_helper.to_array(bias).copy()
        values[1] += 0.5
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        onnx.save(model, path)

    monkeypatch.setattr(graph, "write_onnx", write_another)
    with pytest.raises(Failure, match="onnxruntime f32 differs from torch.*nothing published"):
        export(bundle_dir, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_E5_an_interrupted_export_leaves_nothing(bundle_dir: Path, tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish, "compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(bundle_dir, tmp_path / "deploy")
    assert not (tmp_path / "deploy/bundle.json").exists()
    engine = {path.name for path in (tmp_path / "deploy/engine/1").iterdir() if path.name != "__pycache__"}
    assert engine == {"engine_step.py"}


def test_bad_arguments_are_refused_in_one_line(bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    cases = {
        "config.json: no such file": [str(tmp_path / "none"), "--deploy", str(tmp_path / "d")],
        "neither empty nor a model repository": [str(bundle_dir), "--deploy", str(tmp_path / "other")],
        "--precision bf16: openvino has f32, int8": [str(bundle_dir), "--precision", "bf16"],
        "--precision int8 needs --data": [str(bundle_dir), "--precision", "int8", "--deploy", str(tmp_path / "e")],
        "nothing/split=train: no such file, or a directory without *.parquet files": [
            *(str(bundle_dir), "--precision", "int8", "--deploy", str(tmp_path / "e"), "--data", "nothing"),
        ],
    }
    for message, arguments in cases.items():
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "d").exists() and (tmp_path / "other/file").read_text() == "mine"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed here")
def test_tensorrt_is_asked_for_where_it_is_missing(bundle_dir: Path, tmp_path: Path, capsys):
    assert main([str(bundle_dir), "--runtime", "tensorrt", "--deploy", str(tmp_path / "d")]) == 2
    assert "the package tensorrt is not installed here: pip install" in capsys.readouterr().err
    assert not (tmp_path / "d/bundle.json").exists()


def test_int8_is_calibrated_and_compared_on_products(bundle_dir: Path, data: Path, tmp_path: Path):
    (report,) = export(bundle_dir, tmp_path / "deploy", precision="int8", data=data).values()
    path = tmp_path / "deploy/engine/1/model.onnx"
    assert EngineStamp.read(path).precision == "int8" and {file.name for file in path.parent.glob("*.onnx")} == {
        path.name
    }
    assert report["products"] == 40 and report["passed"]  # no flips; near ties there may be, by the processor
    assert 0 < report["probability_difference"] < 0.2
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    eight_bits = [name for name, kind in weights.items() if kind == onnx.TensorProto.INT8]
    assert len(eight_bits) > 10 and not any("modality_heads" in name for name in eight_bits)


def test_the_projects_repository_is_what_gets_copied(deploy: Path):
    committed = {path.relative_to(ROOT / "deploy") for path in (ROOT / "deploy").rglob("*.pbtxt")}
    assert committed == {path.relative_to(deploy) for path in deploy.rglob("*.pbtxt")} and len(committed) >= 7
