"""The benchmark of engines: its figures, its table, and that an engine which differs is never timed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_bundle_config, tiny_network

from bench import engines as benchmark
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from serve.export.graph import write_onnx
from serve.export.publish import export


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("benchmark") / "bundle"
    save_bundle(directory, tiny_bundle_config(), tiny_network())
    return directory


@pytest.fixture(scope="module")
def graph(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    write_onnx(load_bundle(bundle_dir), path)
    return path


@pytest.fixture
def exported_once(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.export.graph.write_onnx", lambda _, path: shutil.copy2(graph, path))


@pytest.mark.alone
def test_a_turn_is_the_latency_of_single_calls():
    seen = []

    def run(*inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(inputs[0]))
        time.sleep(0.01)
        return inputs[0], inputs[0]

    times = benchmark.turn(run, (np.zeros((4, 1)),), calls=20)
    assert len(times) == 20 and min(times) >= 10 and np.median(times) < 100
    assert seen == [4] * (20 + 1), "a first call does not count"


def test_slow_calls_end_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmark, "SECONDS", 0.05 * benchmark.ROUNDS)
    assert 1 <= len(benchmark.turn(lambda *inputs: time.sleep(0.02), (np.zeros((1, 1)),), calls=1000)) <= 3


def test_memory_counts_what_was_touched_and_given_back(bundle_dir: Path):
    def load(megabytes: int):
        np.ones(megabytes * 1_000_000, dtype=np.uint8)
        return lambda *inputs: None

    loaders = {"large": lambda: load(60), "small": lambda: load(20)}
    (rows,) = benchmark.measure(loaders, load_bundle(bundle_dir).config, [(1, 16)], calls=12)
    assert [(row["name"], row["batch"], row["length"], row["calls"]) for row in rows] == [
        ("large", 1, 16, 15),
        ("small", 1, 16, 15),
    ]
    assert 55e6 < rows[0]["peak_bytes"] < 90e6 and 15e6 < rows[1]["peak_bytes"] < 50e6
    assert rows[0]["products_per_s"] == pytest.approx(1e3 / rows[0]["median_ms"])
    assert 0 <= rows[0]["p20_ms"] <= rows[0]["median_ms"] <= rows[0]["p80_ms"]


def test_the_table_compares_shape_by_shape():
    def row(name: str, batch: int, median: float) -> dict[str, object]:
        times = {"p20_ms": median, "median_ms": median, "p80_ms": median, "products_per_s": 1e3 * batch / median}
        return {"name": name, "batch": batch, "length": 16, **times, "peak_bytes": 3e6}

    rows = [row("torch", 1, 2.0), row("eager bf16", 1, 5.0), row("torch", 8, 4.0), row("eager bf16", 8, 6.0)]
    lines = benchmark.table({"rows": rows}).splitlines()
    assert lines[2:] == [
        "| 1 | 16 | torch | 2.00 | 2.00 | 2.00 | 500 | 2.50 | 3 |",
        "| 1 | 16 | eager bf16 | 5.00 | 5.00 | 5.00 | 200 | 1.00 | 3 |",
        "| 8 | 16 | torch | 4.00 | 4.00 | 4.00 | 2000 | 1.50 | 3 |",
        "| 8 | 16 | eager bf16 | 6.00 | 6.00 | 6.00 | 1333 | 1.00 | 3 |",
    ]


def test_one_run_on_this_machine(bundle_dir: Path, exported_once, tmp_path: Path):
    arguments = [str(bundle_dir), "--runtime", "onnxruntime", "--batch", "2", "--length", "16", "--calls", "3"]
    assert benchmark.main([*arguments, "--output", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in result["rows"]][0] == "onnxruntime" and len(result["rows"]) == 2
    assert all(row["median_ms"] > 0 and row["calls"] == 5 for row in result["rows"])
    assert result["parity"]["onnxruntime f32"]["passed"]
    assert {"python", "torch", "onnxruntime"} <= set(result["machine"]["versions"]) and result["machine"]["cpu"]
    assert list(result["engine"]) == ["onnxruntime"]
    assert "| 2 | 16 | onnxruntime |" in (tmp_path / "table.md").read_text()


def test_an_engine_that_was_exported_before_is_timed_as_it_is(
    bundle_dir: Path, exported_once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    deploy = tmp_path / "deploy"
    reports = export(bundle_dir, deploy, "onnxruntime")
    monkeypatch.setattr(benchmark, "export", lambda *_: pytest.fail("it was exported again"))
    shape = ["--batch", "1", "--length", "16", "--calls", "1", "--output", str(tmp_path / "out")]
    arguments = [str(bundle_dir), "--runtime", "onnxruntime", "--deploy", str(deploy), *shape]
    assert benchmark.main(arguments) == 0
    assert json.loads((tmp_path / "out/result.json").read_text())["parity"] == reports
    other = BundleConfig.read(bundle_dir / "config.json").model_copy(update={"provenance": {"of": "another"}})
    (deploy / "bundle.json").write_text(other.model_dump_json())
    assert benchmark.main(arguments) == 2 and "is of another bundle" in capsys.readouterr().err


def test_E6_an_engine_that_differs_is_not_timed(
    bundle_dir: Path, exported_once, monkeypatch: pytest.MonkeyPatch, capsys
):
    monkeypatch.setattr("serve.export.parity.LIMITS", {"f32": -1.0, "bf16": -1.0})
    monkeypatch.setattr(benchmark, "measure", lambda *_: pytest.fail("it was timed"))
    assert benchmark.main([str(bundle_dir), "--runtime", "onnxruntime"]) == 1
    error = capsys.readouterr().err
    assert "differs from torch" in error and "nothing published" in error
