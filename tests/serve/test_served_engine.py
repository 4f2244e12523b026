"""The engine as the server calls it: its stamp, its width, its warm-up, and the tensors that it refuses."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from model.config import BundleConfig, ModelConfig, PreprocessConfig
from model.refusal import Refusal
from model.tasks import MultiLabel, SingleLabel
from serve.engines.openvino import fastest_precision
from serve.runtimes import RUNTIMES, Runtime
from serve.served_engine import ServedEngine
from serve.stamp import EngineStamp

TASKS = [
    SingleLabel(name="colour", labels=["red", "green", "blue"]),
    MultiLabel(name="pattern", labels=["dots", "stripes"]),
]
CONFIG = BundleConfig(model=ModelConfig(), preprocess=PreprocessConfig(image_size=16, vocab_size=600), tasks=TASKS)


class Fake:
    """A runtime that computes zeros as wide as it is told."""

    widths, lengths, loaded = (5, 2), [], []

    def __init__(self, path, parameters):
        self.loaded.append((path, dict(parameters)))

    def __call__(self, input_ids, pixels, present):
        self.lengths.append(input_ids.shape[1])
        return tuple(np.zeros((len(input_ids), width)) for width in self.widths)

    @staticmethod
    def machine():
        return {"fake": "2"}, None


@pytest.fixture
def fake(monkeypatch) -> type[Fake]:
    module = ModuleType("fake_engine")
    module.Engine = type("Engine", (Fake,), {"lengths": [], "loaded": []})
    monkeypatch.setitem(sys.modules, "fake_engine", module)
    row = Runtime("fake_engine:Engine", "model.fake", "fake_engine:build", ("f32",), "fake", 50)
    monkeypatch.setitem(RUNTIMES, "fake", row)
    return module.Engine


@pytest.fixture
def version(tmp_path) -> Path:
    """DEPLOY/engine/1 with a stamped engine file."""
    folder = tmp_path / "engine/1"
    folder.mkdir(parents=True)
    (folder / "model.fake").touch()
    (tmp_path / "bundle.json").write_text("{}")
    stamp(folder, versions={"fake": "2"})
    return folder


def stamp(version: Path, **others) -> None:
    sha256 = hashlib.sha256(b"{}").hexdigest()
    EngineStamp(runtime="fake", precision="f32", bundle_sha256=sha256, **others).write(version / "model.fake")


def test_F11_loading_makes_a_call_of_every_title_length(fake, version):
    engine = ServedEngine.load("fake", version, CONFIG, {"HINT": "f32"})
    assert fake.loaded == [(version / "model.fake", {"HINT": "f32"})]
    assert tuple(fake.lengths) == CONFIG.preprocess.title_lengths and engine.call_cost == 50


@pytest.mark.parametrize(
    ("widths", "says"),
    [((4, 2), "logits is 4 wide, bundle.json's tasks need 5"), ((5, 1), "text_share is 1 wide, .* need 2")],
)
def test_F9_an_engine_of_another_width_is_refused(fake, version, widths, says):
    fake.widths = widths
    with pytest.raises(ValueError, match=f"model.fake: {says}"):
        ServedEngine.load("fake", version, CONFIG, {})


def test_an_engine_of_another_export_or_library_is_refused_before_it_is_loaded(fake, version):
    stamp(version, versions={"fake": "1"})
    with pytest.raises(ValueError, match=r"model.fake: built with fake 1, here is 2; rebuild: .* --runtime fake"):
        ServedEngine.load("fake", version, CONFIG, {})
    (version.parents[1] / "bundle.json").write_text("{ }")
    with pytest.raises(ValueError, match=r"model.fake: was not exported together with bundle.json"):
        ServedEngine.load("fake", version, CONFIG, {})
    assert not fake.loaded


@pytest.mark.parametrize("damage", [lambda old: old[:700] + b"\0" + old[701:], lambda old: bytes(4096)])
def test_a_byte_flipped_or_zeros_in_the_engine_file_are_refused_before_it_is_loaded(fake, version, damage):
    file = version / "model.fake"
    file.write_bytes(b"\1" * 4096)
    stamp(version, versions={"fake": "2"})
    ServedEngine.load("fake", version, CONFIG, {})
    fake.loaded.clear()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(
        ValueError, match=r"model.fake: is damaged or not its stamp's: .*; rebuild: python -m serve.export"
    ):
        ServedEngine.load("fake", version, CONFIG, {})
    assert not fake.loaded


def test_F7_what_is_missing_is_named(fake, version):
    with pytest.raises(ValueError, match="runtime '' is unknown, expected one of openvino"):
        ServedEngine.load("", version, CONFIG, {})
    (version / "model.fake.json").unlink()
    with pytest.raises(ValueError, match="model.fake.json: no such file"):
        ServedEngine.load("fake", version, CONFIG, {})
    (version / "model.fake").unlink()
    with pytest.raises(ValueError, match="model.fake: no such file"):
        ServedEngine.load("fake", version, CONFIG, {})


@pytest.mark.parametrize(
    ("ids", "size", "says"),
    [
        ([598, 5, 599], 8, r"^BAD_TENSOR: pixels is \(1, 8, 8, 3\), expected sides of 16"),
        ([598] * 78, 16, r"^BAD_TENSOR: input_ids is \(1, 78\), at most 77 ids"),
        ([598, 600], 16, r"^BAD_TENSOR: input_ids must lie in 0..599"),
        ([598, -1], 16, r"^BAD_TENSOR: input_ids must lie in 0..599"),
    ],
)
def test_a_tensor_that_does_not_fit_the_bundle_is_refused(ids, size, says):
    engine = ServedEngine(lambda *inputs: pytest.fail("it was run"), CONFIG, call_cost=0)
    with pytest.raises(Refusal, match=says):
        engine.check(np.array([ids], np.int32), np.zeros((1, size, size, 3), np.uint8), np.ones((1, 2), bool))


@pytest.mark.parametrize(
    "allowed, capable, expected",
    [
        (None, ["FP32", "BF16"], "bf16"),
        ("AVX512_CORE_AMX", ["FP32", "BF16"], "bf16"),
        ("AVX2", ["FP32", "BF16"], "f32"),
        ("avx512_core_vnni", ["FP32", "BF16"], "f32"),
        (None, ["FP32"], "f32"),
    ],
)
def test_bf16_is_taken_where_the_processor_has_it_and_onednn_may(allowed, capable, expected, monkeypatch):
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return capable

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if allowed:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", allowed)
    assert fastest_precision(Core()) == expected


def test_the_engine_refuses_what_has_no_modality_or_rows_that_differ():
    engine = ServedEngine(lambda *inputs: pytest.fail("it was run"), CONFIG, call_cost=0)
    ids, pixels = np.array([[598, 599]] * 2, np.int32), np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(Refusal, match=r"^NO_MODALITY: row 1 of present"):
        engine.check(ids, pixels, np.array([[True, False], [False, False]]))
    with pytest.raises(Refusal, match=r"^BAD_TENSOR: .* number of rows"):
        engine.check(ids, pixels, np.ones((1, 2), bool))
