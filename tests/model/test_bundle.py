"""A bundle rebuilds the same network from nothing but its directory, or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tiny import TASKS, tiny_bundle_config, tiny_config, tiny_network

from cma_clip.files import file_sha256, new_directory, write_atomically
from model.bundle import load_bundle, save_bundle
from model.config import BundleConfig
from model.tasks import Task


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(directory, tiny_bundle_config(), tiny_network())
    return directory


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(saved, tmp_path / "bundle"))


def test_round_trip_is_bitwise(saved: Path):
    network, bundle = tiny_network(), load_bundle(saved)
    names = {"tokenizer_sha256": "tokenizer.json", "weights_sha256": "model.safetensors"}
    hashes = {key: file_sha256(saved / name) for key, name in names.items()}
    assert bundle.config == tiny_bundle_config().model_copy(update=hashes)
    for (name, ours), theirs in zip(network.state_dict().items(), bundle.network.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    products = [("red dress", b""), ("blue dress by Redwood", b"")]
    inputs = [torch.from_numpy(array) for array in bundle.prepare(products)]
    with torch.no_grad():
        assert torch.equal(network.eval()(*inputs).logits_BC, bundle.network(*inputs).logits_BC)


def test_no_pickle_and_nothing_left_beside(saved: Path):
    assert {path.name for path in saved.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert [path.name for path in saved.parent.iterdir()] == ["bundle"]
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_classify_answers_every_product_and_refuses_nothing_to_look_at(saved: Path):
    bundle = load_bundle(saved)
    (answer,) = bundle.classify([("red dress", b"")])
    assert set(answer) == {"color", "pattern"}
    assert answer["color"]["label"] in TASKS[0].labels and answer["color"]["text_share"] == 1.0
    with pytest.raises(ValueError, match="NO_MODALITY"):
        bundle.classify([("red dress", b""), ("  ", b"")])


def test_F9_another_tokenizer_is_refused(copy: Path):
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text + " ")
    with pytest.raises(ValueError, match="tokenizer.json: its sha256 is .*, the network was trained with "):
        load_bundle(copy)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(copy: Path, name: str):
    (copy / name).unlink()
    with pytest.raises(ValueError, match=f"{name}: no such file"):
        load_bundle(copy)


def test_damaged_weights_are_named(copy: Path):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"model\.safetensors: these weights do not fit"):
        load_bundle(copy)


def test_one_flipped_bit_of_the_weights_is_refused(copy: Path):
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: damaged, its sha256 is \w+, config\.json says \w+"):
        load_bundle(copy)
    config = json.loads((copy / "config.json").read_text())
    del config["weights_sha256"]  # as bundles of before
    (copy / "config.json").write_text(json.dumps(config))
    load_bundle(copy)


def test_R3_a_full_disk_leaves_the_old_bundle_and_names_the_file(copy: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in copy.iterdir()}

    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("model.bundle.save_file", full)
    with pytest.raises(OSError, match=r"\[Errno 28\] No space left on device: '.*model\.safetensors'"):
        save_bundle(copy, tiny_bundle_config(), tiny_network())
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_weights_of_another_network_are_refused_in_one_line(copy: Path):
    config = json.loads((copy / "config.json").read_text())
    config["tasks"][0]["labels"].append("yellow")
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit config\.json: .*modality_heads\.output_weight") as error:
        load_bundle(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("modle", {}, "modle: Extra inputs are not permitted"),
        ("tasks", [], "tasks: Value error, no tasks"),
        ("format", 2, "format: Input should be 1"),
    ],
)
def test_a_bad_config_names_file_and_field(copy: Path, key: str, value: object, message: str):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=message) as error:
        BundleConfig.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"name": "a", "kind": "single_label", "labels": ["x"]}, "2 or more labels"),
        ({"name": "a", "kind": "multi_label", "labels": []}, "1 or more labels"),
        ({"name": "a", "kind": "single_label", "labels": ["x", "x"]}, "labels repeat"),
        ({"name": "a", "kind": "multi_label", "labels": ["x", "y"], "thresholds": [0.5]}, "1 thresholds, expected 2"),
        ({"name": "a b", "kind": "multi_label", "labels": ["x"]}, "name"),
        ({"name": "a", "kind": "ranked", "labels": ["x"]}, "kind 'ranked': expected one of single_label, multi_label"),
    ],
)
def test_unfit_tasks_are_refused(task: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Task.model_validate(task)


def test_a_failed_save_leaves_the_old_bundle(copy: Path, monkeypatch: pytest.MonkeyPatch):
    before = (copy / "model.safetensors").read_bytes()
    monkeypatch.setattr("model.bundle.build_tokenizer", lambda size: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_bundle(copy, tiny_bundle_config(), tiny_network(tiny_config(sequence_attention=False)))
    assert (copy / "model.safetensors").read_bytes() == before
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]


def test_files_are_replaced_whole(tmp_path: Path):
    with pytest.raises(RuntimeError), new_directory(tmp_path / "d") as partial:
        (partial / "x").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_directory(tmp_path / "d") as partial:
        (partial / "x").write_text("1")
    with new_directory(tmp_path / "d") as partial:
        (partial / "y").write_text("2")
    write_atomically(tmp_path / "f", "3")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["d", "d/y", "f"]


def test_config_reads_back_what_it_wrote(saved: Path):
    text = (saved / "config.json").read_text()
    assert BundleConfig.model_validate_json(text).model_dump_json(indent=2) + "\n" == text
    assert np.isclose(json.loads(text)["preprocess"]["mean"][0], 0.48145466)
