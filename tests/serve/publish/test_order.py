"""`cma-clip publish` over files and a told server: what is served after each failure and each kill."""

from __future__ import annotations

import errno
import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from launch_files import write_repository
from tiny import TASKS, tiny_bundle_config, tiny_network
from told_server import ToldServer, whole_root

from cma_clip.command import Failure
from model.bundle import load_bundle, save_bundle
from model.tasks import SingleLabel
from serve.export.publish import export, served_sha256
from serve.publish import forward
from serve.publish.__main__ import _parse
from serve.publish.back import roll_back
from serve.publish.order import alone, settle
from serve.repository import Repository
from serve.sets import STEPS, Served
from serve.stamp import EngineStamp

MOST_MOVES = 60


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three, of different labels; the first is that of `repository`."""
    made = []
    for number, labels in enumerate((["red", "blue", "green"], ["red", "black", "green"], ["rot", "blau"])):
        tasks = [SingleLabel(name="color", labels=labels), TASKS[1]]
        made.append(tmp_path_factory.mktemp("bundles") / f"b{number}")
        save_bundle(made[-1], tiny_bundle_config(tasks=tasks), tiny_network(tasks=tasks))
    return made


@pytest.fixture
def repository(tmp_path: Path, bundles: list[Path], monkeypatch: pytest.MonkeyPatch) -> Repository:
    """A plain one; engines are built in no time."""

    def build_engine(bundle, folder: Path, runtime: str, precision: str, data) -> dict[str, dict[str, float]]:
        (folder / "model.onnx").write_bytes(b"engine")
        stamp = EngineStamp(runtime=runtime, precision="f32", bundle_sha256=served_sha256(bundle))
        stamp.write(folder / "model.onnx")
        return {"graph": {"limit": 1e-3}}

    monkeypatch.setattr("serve.publish.build.build_engine", build_engine)
    monkeypatch.setattr("serve.export.publish.build_engine", build_engine)
    monkeypatch.setattr("serve.export.publish.load_bundle", cache(load_bundle))
    root = write_repository(tmp_path / "deploy")
    shutil.copy(bundles[0] / "tokenizer.json", root)
    return Repository(root)


@pytest.fixture
def server(repository: Repository, bundles: list[Path]) -> ToldServer:
    server = ToldServer(repository)
    for directory in bundles:
        bundle = load_bundle(directory)
        expected = forward.expected_of(bundle, repository, {"graph": {"limit": 1e-3}})
        server.probabilities[bundle.config.tasks.label_set_hash] = expected.probabilities_BC
    return server


def publish(repository: Repository, server: ToldServer, bundle: Path) -> None:
    with alone(repository):
        forward.publish(repository, server, settle(repository, server), _parse([str(bundle)]))


def rollback(repository: Repository, server: ToldServer) -> None:
    with alone(repository):
        roll_back(repository, server, settle(repository, server))


def label_set(bundle: Path) -> str:
    return load_bundle(bundle).config.tasks.label_set_hash


def answers_as(server: ToldServer, bundle: Path) -> None:
    assert server.ask([(b"", b"")]).label_sets == {label_set(bundle)}
    whole_root(server.repository)


def tree(repository: Repository) -> dict[str, bytes]:
    """Every file but for python's, and what it holds."""
    files = (path for path in repository.root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(repository.root)): path.read_bytes() for path in files}


def test_back_and_forth_and_only_the_one_before_is_kept(repository, server, bundles):
    plain = tree(repository)
    publish(repository, server, bundles[1])
    answers_as(server, bundles[1])
    first = repository.served()
    assert first.previous == "" and len(server.live) == 8, "the plain set stays loaded"
    rollback(repository, server)
    answers_as(server, bundles[0])
    assert repository.served() == Served("", first.current)
    rollback(repository, server)
    assert server.said[-5:] == [*(f"load {step}{first.current}" for step in STEPS), "load cma_clip"]
    publish(repository, server, bundles[2])
    answers_as(server, bundles[2])
    assert repository.served().previous == first.current and len(server.live) == 8 and "engine" not in server.live
    publish(repository, server, bundles[0])
    answers_as(server, bundles[0])
    assert len(repository.found() - {""}) == 2 and not repository.is_whole("")
    repository.place("")  # as an export would, which builds the engine anew
    assert set(plain) - {path for path in tree(repository) if "/aside/" not in path} == {
        "engine/1/model.onnx",
        "engine/1/model.onnx.json",
    }


def test_what_is_served_or_was_before_is_not_built_again(repository, server, bundles, capsys):
    publish(repository, server, bundles[1])
    said = list(server.said)
    publish(repository, server, bundles[1])
    assert server.said == [*said, "check"] and "already" in capsys.readouterr().out
    publish(repository, server, bundles[2])
    publish(repository, server, bundles[1])
    answers_as(server, bundles[1])
    assert "--rollback again" in capsys.readouterr().out


def test_an_export_makes_the_repository_plain_again(repository, server, bundles):
    names = {path.name for path in repository.root.iterdir()}
    for bundle in bundles[1:]:
        publish(repository, server, bundle)
    assert not repository.is_whole("") and not (repository.root / "engine").exists()
    export(bundles[1], repository.root)
    answers_as(ToldServer(repository), bundles[1])
    assert repository.served() == Served("") and {path.name for path in repository.root.iterdir()} == names
    assert not repository.aside.exists() and "previous" not in (repository.root / "cma_clip/config.pbtxt").read_text()


@pytest.mark.parametrize("refused", ["preprocess_", "engine_", "decode_", "cma_clip"])
def test_what_cannot_be_loaded_leaves_nothing(repository, server, bundles, refused):
    publish(repository, server, bundles[1])
    before, live = tree(repository), set(server.live)
    server.refuses = refused
    with pytest.raises(Failure, match="no memory"):
        publish(repository, server, bundles[2])
    assert tree(repository) == before
    assert live - server.live == {"preprocess", "tokenize", "engine", "decode"}, "the one before went for its memory"
    server.refuses = ""
    server.load("cma_clip")
    answers_as(server, bundles[1])
    rollback(repository, server)
    answers_as(server, bundles[0])


def test_a_set_that_answers_otherwise_than_torch_is_not_served(repository, server, bundles):
    before = tree(repository)
    server.probabilities[label_set(bundles[1])] += np.float32(0.01)
    with pytest.raises(Failure, match=r"answers 0\.01 beside torch, at most 0\.001 is right"):
        publish(repository, server, bundles[1])
    assert tree(repository) == before and server.serving == "" and len(server.live) == 4
    server.probabilities[label_set(bundles[1])] *= np.nan
    with pytest.raises(Failure, match="answers nan beside torch"):
        publish(repository, server, bundles[1])


def test_labels_of_another_bundle_are_not_served(repository, server, bundles, monkeypatch):
    publish(repository, server, bundles[1])
    answer = server.ask([(b"", b"")])._replace(label_sets={label_set(bundles[1]), label_set(bundles[0])})
    monkeypatch.setattr(server, "ask", lambda products: answer)
    with pytest.raises(Failure, match="cma_clip answers with label set"):
        rollback(repository, server)
    monkeypatch.undo()
    answers_as(server, bundles[1])


def test_nothing_before_is_one_line(repository, server):
    with pytest.raises(Failure, match="there is no bundle before"):
        rollback(repository, server)


def test_no_space_is_one_line_and_leaves_nothing(repository, server, bundles, monkeypatch):
    before = tree(repository)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    for place in ("serve.publish.build.build_engine", "serve.publish.build.shutil.copy2"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(OSError, match="No space left on device"):
                publish(repository, server, bundles[1])
        assert tree(repository) == before and server.said[-1] == "check"


def test_two_do_not_publish_at_once(repository, server, bundles):
    with alone(repository), pytest.raises(Failure, match="somebody else publishes"):
        publish(repository, server, bundles[1])


def test_a_server_over_another_repository_is_refused(repository, server, bundles):
    server.serving = "_0123456789ab"
    server.load = lambda name: None
    with pytest.raises(Failure, match="does not serve .*deploy: its cma_clip has other steps"):
        publish(repository, server, bundles[1])


def killed_at(move: int, work) -> bool:
    """Run it in another process that dies at its n-th rename; whether it lived to its end."""
    child = os.fork()
    if child == 0:
        real, moves = os.replace, iter(range(MOST_MOVES))

        def replace(source, target) -> None:
            if next(moves) == move:
                os._exit(9)
            real(source, target)

        os.replace = replace
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("again", ["publish", "rollback"])
def test_killed_at_any_rename_a_whole_set_is_served(repository, server, bundles, again, tmp_path):
    """After each: a server would start; the same command, told the running server or a fresh one, ends well."""
    publish(repository, server, bundles[1])
    if again == "rollback":
        publish(repository, server, bundles[2])
    wanted = bundles[2] if again == "publish" else bundles[1]
    work = (lambda r, s: publish(r, s, bundles[2])) if again == "publish" else rollback
    for move in range(MOST_MOVES):
        copy = Repository(Path(shutil.copytree(repository.root, tmp_path / f"killed{move}")))
        running = ToldServer(copy)
        running.probabilities, running.live = server.probabilities, set(server.live)
        ended = killed_at(move, lambda copy=copy, running=running: work(copy, running))
        whole_root(copy)
        before, fresh = repository.served(), ToldServer(copy)
        fresh.probabilities = server.probabilities
        if ended:
            answers_as(fresh, wanted)
            break
        for again_server in (running, fresh):
            mended = Repository(Path(shutil.copytree(copy.root, tmp_path / f"mended{move}-{again_server is fresh}")))
            again_server.repository = mended
            if mended.served() == before or again == "publish":
                work(mended, again_server)
            else:
                with alone(mended):
                    settle(mended, again_server)
            answers_as(again_server, wanted)
            assert len(mended.found()) <= 3
    assert move > (10 if again == "publish" else 12)
