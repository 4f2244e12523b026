"""The table of runtimes fits what it names, and a row is all that a new runtime needs beside its engine and a pbtxt."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from tiny import ROOT, tiny_bundle_config, tiny_network

from model.bundle import load_bundle, save_bundle
from serve import check
from serve.engines import INPUTS, OUTPUTS
from serve.export.parity import random_inputs
from serve.export.publish import export
from serve.repository import engine_files
from serve.runtimes import RUNTIMES, Runtime, builder, engine_class, load_engine, row_of
from serve.served_engine import ServedEngine
from serve.stamp import EngineStamp

ENGINE = ROOT / "deploy/engine"


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_row_names_what_is_there(name: str):
    row = RUNTIMES[name]
    assert callable(builder(name)) and callable(engine_class(name).machine)
    assert row.precisions and row.call_cost > 0 and Path(row.file).suffix in (".onnx", ".plan", ".pt2")
    runtime, parameters = check.engine_runtime(ENGINE, row.config)
    assert runtime == name and "runtime" not in parameters
    assert row.config is None or (ENGINE / f"configs/{row.config}.pbtxt").is_file()


def test_every_configuration_belongs_to_a_row():
    assert {path.stem for path in (ENGINE / "configs").iterdir()} == {row.config for row in RUNTIMES.values()} - {None}


def test_an_unknown_runtime_and_a_missing_library_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match=r"^runtime 'tvm' is unknown, expected one of openvino, onnxruntime, ten.*$"):
        row_of("tvm")
    monkeypatch.setitem(RUNTIMES, "tvm", RUNTIMES["torch"]._replace(engine="no_such_library.tvm:Engine"))
    with pytest.raises(
        ValueError, match="^runtime tvm needs the package no_such_library, which is not installed here$"
    ):
        load_engine("tvm", Path("model.so"), {})


class GatherElements(OpRun):
    """The evaluator's own takes at most 64 elements along some axes."""

    def _run(self, data, indices, axis=0):
        return (np.take_along_axis(data, indices, axis),)


class ReferenceEngine:
    """A new runtime's engine file: ONNX's own evaluator in NumPy."""

    def __init__(self, path, parameters):
        assert dict(parameters) in ({}, {"verbosity": "0"})
        self.evaluator, self.precision = ReferenceEvaluator(str(path), new_ops=[GatherElements]), "f32"

    def __call__(self, input_ids_BT, pixels_BHW3, present_B2):
        return tuple(
            self.evaluator.run(list(OUTPUTS), dict(zip(INPUTS, (input_ids_BT, pixels_BHW3, present_B2), strict=True)))
        )

    @staticmethod
    def machine():
        return {"onnx": onnx.__version__}, None


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> str:
    """A runtime of three parts: its module, its row, its pbtxt."""
    module = ModuleType("reference_engine")
    module.ReferenceEngine = ReferenceEngine
    monkeypatch.setitem(sys.modules, "reference_engine", module)
    row = Runtime(
        "reference_engine:ReferenceEngine", "model.onnx", "serve.export.graph:build", ("f32",), "reference", 9
    )
    monkeypatch.setitem(RUNTIMES, "reference", row)
    return "reference"


def write_pbtxt(deploy: Path) -> None:
    text = (deploy / "engine/configs/onnxruntime.pbtxt").read_text().replace('"onnxruntime"', '"reference"')
    text += 'parameters { key: "verbosity" value { string_value: "0" } }\n'
    (deploy / "engine/configs/reference.pbtxt").write_text(text)


def test_a_new_runtime_is_exported_stamped_checked_and_loaded(added: str, tmp_path: Path, monkeypatch):
    bundle_dir, deploy = tmp_path / "bundle", tmp_path / "deploy"
    save_bundle(bundle_dir, tiny_bundle_config(), tiny_network())
    monkeypatch.setattr("serve.export.parity.BATCHES", (2,))
    reports = export(bundle_dir, deploy, added)
    assert list(reports) == ["onnxruntime f32", "reference f32"] and all(r["passed"] for r in reports.values())
    write_pbtxt(deploy)

    engine = deploy / "engine/1/model.onnx"
    assert EngineStamp.read(engine).runtime == added and engine.name in engine_files()
    check.check_models(deploy, "reference")
    check.check_engine(deploy, "reference")
    runtime, parameters = check.engine_runtime(deploy / "engine", "reference")
    assert (runtime, parameters) == (added, {"verbosity": "0"})

    bundle = load_bundle(bundle_dir)
    inputs = random_inputs(bundle.config, 3, 16, seed=0)
    served = ServedEngine.load(runtime, engine.parent, bundle.config, parameters)
    assert served.call_cost == 9
    (ours,), theirs = served.answer([inputs]), load_engine("onnxruntime", engine, {})(*inputs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
