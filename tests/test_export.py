"""Bundle to ONNX to a model repository: parity, and that nothing half-made is ever published."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import ROOT, TASKS, tiny_bundle_config, tiny_network

from model import export as exporter
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig, Task
from model.export import export, main, random_inputs


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "bundle"
    tasks = [*TASKS, Task(name="tags", kind="multi_label", labels=["a", "b", "c"])]
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
    assert engine == {"model.onnx", "parity.json", "openvino_step.py"}


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
    actual = session.run(["logits", "text_share"], dict(zip(exporter.INPUTS, inputs, strict=True)))
    with torch.no_grad():
        expected = bundle.network(*map(torch.from_numpy, inputs))
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_the_report_says_what_was_compared(deploy: Path):
    report = json.loads((deploy / "engine/1/parity.json").read_text())
    assert report["passed"] and report["label_flips"] == 0 and report["cases"] == 21 and report["products"] == 70
    assert report["probability_difference"] < 1e-5


def test_parity_inputs_cover_every_mix_of_modalities():
    input_ids, _, present = random_inputs(tiny_bundle_config(), 7, 16, seed=0)
    assert {tuple(row) for row in present.tolist()} == {(True, True), (True, False), (False, True)}
    assert (input_ids.argmax(axis=1) >= 1).all() and input_ids[0].argmax() == 15


def test_E5_a_graph_that_differs_is_not_published(bundle_dir: Path, deploy: Path, tmp_path: Path, monkeypatch):
    copy = Path(shutil.copytree(deploy, tmp_path / "deploy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    write = exporter.write_onnx

    def write_another(bundle, path):
        with torch.no_grad():
            bundle.network.modality_heads.output_bias[1] += 0.5
        write(bundle, path)
        with torch.no_grad():
            bundle.network.modality_heads.output_bias[1] -= 0.5

    monkeypatch.setattr(exporter, "write_onnx", write_another)
    with pytest.raises(ValueError, match="the ONNX graph differs from torch.*nothing published"):
        export(bundle_dir, copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_E5_an_interrupted_export_leaves_nothing(bundle_dir: Path, tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "check_parity", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(bundle_dir, tmp_path / "deploy")
    assert not (tmp_path / "deploy/bundle.json").exists()
    engine = {path.name for path in (tmp_path / "deploy/engine/1").iterdir() if path.name != "__pycache__"}
    assert engine == {"openvino_step.py"}


def test_bad_arguments_are_refused_in_one_line(bundle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    cases = {
        "config.json: no such file": [str(tmp_path / "none"), "--deploy", str(tmp_path / "d")],
        "neither empty nor a model repository": [str(bundle_dir), "--deploy", str(tmp_path / "other")],
        "TensorRT engines cannot be built yet": [
            str(bundle_dir),
            "--runtime",
            "tensorrt",
            "--deploy",
            str(tmp_path / "d"),
        ],
    }
    for message, arguments in cases.items():
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "d").exists() and (tmp_path / "other/file").read_text() == "mine"


def test_the_projects_repository_is_what_gets_copied(deploy: Path):
    committed = {path.relative_to(ROOT / "deploy") for path in (ROOT / "deploy").rglob("*.pbtxt")}
    assert committed == {path.relative_to(deploy) for path in deploy.rglob("*.pbtxt")} and len(committed) == 6
