"""Names of the sets of a repository, and the ensemble's configuration that says which is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tiny import ROOT
from tritonclient.grpc import model_config_pb2

from serve.sets import STEPS, Served, StepSet, ensemble_config, served_set

COMMITTED = ensemble_config(ROOT / "deploy").read_text()
NEW, OLD = "_0123456789ab", "_ba9876543210"


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def repository(path: Path, text: str) -> Path:
    (path / "cma_clip").mkdir()
    ensemble_config(path).write_text(text)
    return path


def test_a_step_knows_its_set_by_its_folder(tmp_path: Path):
    plain, published = StepSet.of(tmp_path / "engine"), StepSet.of(tmp_path / f"decode{NEW}")
    assert plain.bundle == tmp_path / "bundle.json" and plain.folder("decode") == tmp_path / "decode"
    assert published.tokenizer == tmp_path / f"tokenizer{NEW}.json" and published.name("engine") == f"engine{NEW}"


@pytest.mark.parametrize("name", ["cma_clip", "engines", "engine_", f"engine{NEW}0", f"engine{NEW.upper()}"])
def test_other_names_are_no_steps(tmp_path: Path, name: str):
    with pytest.raises(ValueError, match="expected preprocess, tokenize"):
        StepSet.of(tmp_path / name)


def test_only_names_of_steps_change_and_all_of_them(tmp_path: Path):
    text = Served(NEW, "").write(COMMITTED)
    before, after = parsed(COMMITTED), parsed(text)
    assert [step.model_name for step in after.ensemble_scheduling.step] == [f"{step}{NEW}" for step in STEPS]
    for old, new in zip(before.ensemble_scheduling.step, after.ensemble_scheduling.step, strict=True):
        new.model_name = old.model_name
    del after.parameters["previous"]
    assert after == before


def test_what_is_written_is_read_and_can_be_undone(tmp_path: Path):
    root = repository(tmp_path, COMMITTED)
    assert Served.read(root) == Served("")
    text = COMMITTED
    for served in (Served(NEW, ""), Served(OLD, NEW), Served("", OLD)):
        text = served.write(text)
        ensemble_config(root).write_text(text)
        assert Served.read(root) == served and served_set(root).suffix == served.current
        assert len(parsed(text).parameters) == 1
    assert Served("").write(text) == COMMITTED


def test_steps_of_two_sets_are_refused(tmp_path: Path):
    root = repository(tmp_path, COMMITTED.replace('"engine"', f'"engine{NEW}"'))
    with pytest.raises(ValueError, match="its steps are of 2 sets"):
        Served.read(root)


def test_a_repository_to_be_has_a_plain_bundle(tmp_path: Path):
    assert served_set(tmp_path / "deploy").bundle == tmp_path / "deploy/bundle.json"
    with pytest.raises(ValueError, match=r"cma_clip/config.pbtxt: No such file"):
        Served.read(tmp_path)
