"""What the tests share: one small data set and one trained run, among all workers; one server a worker."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

if not torch.cuda.is_available():
    import interpreter  # noqa: F401  before anything imports triton
import traced_once  # noqa: F401  before anything imports write_onnx
from alone import turn
from fashion_mnist_files import write_fashion_mnist
from server_process import ServerProcess, free_ports, in_float32
from tiny import STAGES, launch_stage, run_stage
from workers import Scheduling, in_order
from xdist.remote import Producer

from serve.export.publish import export
from train.prepare.__main__ import main as prepare

# The same examples at every run, whatever the machine's speed; bench.title_fuzz looks for others.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """Each worker computes with its part of the cores."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        in_order(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Among several workers each test waits for its turn, with the fixtures that it makes."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    folder = item.config._tmp_path_factory.getbasetemp().parent  # of all workers
    with turn(folder / "alone", item.get_closest_marker("alone") is not None):
        return (yield)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A directory that `make` fills, once for all workers: the first one does it, the others wait."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    made = Path(f"{folder}.made")
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half-way
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small apa_mini made from drawn silhouettes."""

    def make(output: Path) -> None:
        source = output.parent / "source"
        source.mkdir(exist_ok=True)
        write_fashion_mnist(source, train=40, test=40)
        sizes = ["--size", "160", "--validation", "40", "--test", "40"]
        assert prepare(["apa_mini", "--output", str(output), "--source", str(source), *sizes]) == 0

    return made_once(tmp_path_factory, "data", make)


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages, trained by DeepSpeed on two ranks: the first by its real launcher."""

    def make(output: Path) -> None:
        for stage in STAGES:
            result = (launch_stage if stage == STAGES[0] else run_stage)(stage, data, output)
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]

    return made_once(tmp_path_factory, "run", make)


@pytest.fixture(scope="session")
def bundle_dir(run: Path) -> Path:
    return run / "bundle"


@pytest.fixture(scope="session")
def server(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The real server with the trained bundle."""

    def make(deploy: Path) -> None:
        export(bundle_dir, deploy)
        in_float32(deploy)

    deploy = made_once(tmp_path_factory, "deploy", make)
    with ServerProcess(deploy, tmp_path_factory.mktemp("served") / "server.log") as process:
        yield process


@pytest.fixture(scope="session")
def products(data: Path) -> list[tuple[str, bytes]]:
    """Titles and pictures of the test split."""
    import pyarrow.parquet as pq

    table = pq.read_table(data / "split=test").to_pylist()
    return [(row["title"], row["image"]) for row in table]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    return free_ports(1)[0]
