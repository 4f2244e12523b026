"""`cma-clip publish` into the real server, under load; and what servers say that are not told what to load."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from launched_server import Launched
from server_process import ServerProcess, in_float32
from tiny import tiny_bundle_config, tiny_network

from bench.load.publishing import PUBLISH, ROLLBACK, Action, known_answers, publishing
from client import Classifier, ClassifierError
from cma_clip.command import Failure
from model.bundle import Bundle, load_bundle, save_bundle
from model.tasks import SingleLabel
from serve.export.publish import export
from serve.publish.__main__ import _parse
from serve.publish.run import run
from serve.repository import Repository
from serve.sets import Served

pytestmark = pytest.mark.alone

RATE = 15  # requests a second: the servers share their cores with the tests, and this one loads two bundles
LABELS = (["red", "blue"], ["black", "red"])


def bundle(path: Path, labels: list[str]) -> Path:
    """A tiny one with one title length, as parity and warm-up take their time for each."""
    tasks = [SingleLabel(name="color", labels=labels)]
    network, chance = tiny_network(tasks=tasks), torch.Generator().manual_seed(sum(map(ord, labels[0])))
    with torch.no_grad():  # so that bundles differ in more than names
        for weights in network.modality_heads.parameters():
            weights += torch.randn(weights.shape, generator=chance)
    config = tiny_bundle_config(tasks=tasks)
    config.preprocess.title_lengths = [config.preprocess.context_length]
    save_bundle(path, config, network)
    return path


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for number, labels in enumerate(LABELS):
        bundle(folder / f"b{number}", labels)
    export(folder / "b0", folder / "deploy")
    return in_float32(folder / "deploy")


@pytest.fixture(scope="module")
def told(deploy: Path) -> Iterator[Launched]:
    """A server that may be told what to load, over the first bundle."""
    with Launched(deploy, deploy.parent / "server.log", "demo", "--publish") as launched:
        yield launched


def command(deploy: Path, port: int, *words: str) -> None:
    run(_parse([*words, "--deploy", str(deploy), "--url", f"127.0.0.1:{port}"]))


def served_labels(url: str) -> str | None:
    with Classifier(url, timeout_s=30) as classifier:
        return classifier.classify("a dress").label_set


def test_under_load_nothing_is_lost_or_mixed(told: Launched, deploy: Path, products):
    """The second bundle is as wide as the first, so that only names and numbers tell them apart."""
    folder = deploy.parent
    bundles: list[Bundle] = [load_bundle(folder / f"b{number}") for number in range(2)]
    known = known_answers(bundles, [(title.encode(), image) for title, image in products])
    steps = [(PUBLISH, str(folder / "b1")), (ROLLBACK, "--rollback"), (ROLLBACK, "--rollback")]
    actions = [Action(name, lambda word=word: command(deploy, told.grpc, word)) for name, word in steps]
    figures = publishing(f"127.0.0.1:{told.grpc}", known, RATE, actions, pause_s=0.5, timeout_s=60)
    assert figures["answers"].keys() == {each.config.tasks.label_set_hash for each in bundles}
    failures = {name: figures[name]["failures"] for name in ("at rest", PUBLISH, ROLLBACK)}
    assert not any(failures.values()), failures
    assert figures["mixed"] == 0 and figures["furthest"] < 1e-3
    assert max(figures["seconds"][ROLLBACK]) < 10
    log = (deploy.parent / "server.log").read_text()
    assert log.count("successfully loaded 'cma_clip'") == 4
    names = [line.split("'")[1] for line in log.splitlines() if "successfully loaded 'engine" in line]
    assert len(names) == len(set(names)) == 2, "no step is loaded twice: rolling back is one switch"


def test_a_client_that_pins_labels_is_told(told: Launched, deploy: Path):
    before = load_bundle(deploy.parent / "b0").config.tasks.label_set_hash
    with Classifier(f"127.0.0.1:{told.grpc}", timeout_s=30, expect_label_set=before) as classifier:
        with pytest.raises(ClassifierError, match="expected label set"):
            classifier.classify("a dress")
        command(deploy, told.grpc, "--rollback")
        assert classifier.classify("a dress").label_set == before
    command(deploy, told.grpc, "--rollback")


def test_what_it_leaves_is_a_repository_that_any_server_serves(told: Launched, deploy: Path, tmp_path: Path):
    """One set lies at the root, so a server without model control holds no more than before."""
    copy = Path(shutil.copytree(deploy, tmp_path / "deploy"))
    with ServerProcess(copy, tmp_path / "server.log") as server:
        assert served_labels(server.url) == load_bundle(deploy.parent / "b1").config.tasks.label_set_hash
        log = (tmp_path / "server.log").read_text()
        assert log.count("successfully loaded '") == 5 and "ignore version directory 'aside'" in log
        with pytest.raises(Failure, match=r"it serves the models of its start only.*cma-clip serve --publish"):
            command(copy, int(server.url.split(":")[1]), "--rollback")


def test_another_folders_server_and_none_are_one_line(told: Launched, deploy: Path, tmp_path, free_port, monkeypatch):
    copy = Repository(Path(shutil.copytree(deploy, tmp_path / "deploy")))
    served = copy.steps(copy.served().current)
    copy.switch(Served(served.suffix, None))

    def build_engine(bundle, folder: Path, *_: object) -> dict[str, dict[str, float]]:
        shutil.copy(served.folder("engine") / "1/model.onnx", folder)
        return {"graph": {"limit": 1.0}}

    monkeypatch.setattr("serve.publish.build.build_engine", build_engine)
    other = bundle(tmp_path / "other", ["noir", "rouge"])
    with pytest.raises(Failure, match=r"is --deploy the repository that it serves\?"):
        command(copy.root, told.grpc, str(other))
    assert copy.found() - {""} == {served.suffix}, "nothing of it is left"
    with pytest.raises(Failure, match=r"is it up\?"):
        command(deploy, free_port, "--rollback")
