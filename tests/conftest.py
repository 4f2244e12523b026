"""What the tests share: a tiny network, one small data set, one trained run, one server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    import interpreter  # noqa: F401  before anything imports triton

from fashion_mnist_files import write_fashion_mnist
from server_process import ServerProcess, free_ports, in_float32

from model.baselines import create_network
from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import Network
from model.config import BundleConfig, ModelConfig, Task
from model.export.publish import export
from train.prepare.__main__ import main as prepare

ROOT = Path(__file__).parents[1]
TASKS = [
    Task(name="color", kind="single_label", labels=["red", "blue", "green"]),
    Task(name="pattern", kind="single_label", labels=["plain", "dots"]),
]
STAGES = ("contrastive", "warmup", "end_to_end", "tuning")


def tiny_config(**settings: object) -> ModelConfig:
    return ModelConfig.model_validate(
        {"clip": "cma-clip-tiny", "sequence_layers": 2, "sequence_heads": 4, "dropout": 0.0} | settings
    )


def tiny_network(config: ModelConfig | None = None, tasks: Sequence[Task] = TASKS) -> Network:
    """A small random network, the same at every call."""
    torch.manual_seed(0)
    config = config or tiny_config()
    clip = create_clip(config)
    return create_network(config, preprocess_config(clip), tasks, clip)


def tiny_bundle_config(config: ModelConfig | None = None, tasks: Sequence[Task] = TASKS) -> BundleConfig:
    config = config or tiny_config()
    return BundleConfig(model=config, preprocess=preprocess_config(create_clip(config)), tasks=list(tasks))


def deepspeed(*arguments: object, ranks: int = 2) -> list[str]:
    """The command line that a user types."""
    launcher = Path(sys.executable).with_name("deepspeed")
    return [str(launcher), "--num_accelerators", str(ranks), "train/main.py", *map(str, arguments)]


def environment() -> dict[str, str]:
    """That of a shell in which the virtual environment is active, on a machine without a GPU."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def run_stage(stage: str, data: Path, output: Path, *options: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    recipe = Path(__file__).parent / "tiny.yaml"
    command = deepspeed("--stage", stage, "--config", recipe, "--data", data, "--output", output, *options, ranks=ranks)
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small apa_mini made from drawn silhouettes."""
    root = tmp_path_factory.mktemp("data")
    write_fashion_mnist(root / "source", train=40, test=40)
    sizes = ["--size", "160", "--validation", "40", "--test", "40"]
    output = root / "apa"
    assert prepare(["apa_mini", "--output", str(output), "--source", str(root / "source"), *sizes]) == 0
    return output


@pytest.fixture(scope="session")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages, trained by DeepSpeed on two ranks."""
    output = tmp_path_factory.mktemp("runs") / "tiny"
    for stage in STAGES:
        result = run_stage(stage, data, output)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return output


@pytest.fixture(scope="session")
def bundle_dir(run: Path) -> Path:
    return run / "bundle"


@pytest.fixture(scope="session")
def server(bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The real server with the trained bundle."""
    deploy = tmp_path_factory.mktemp("served") / "deploy"
    export(bundle_dir, deploy)
    with ServerProcess(in_float32(deploy), deploy.parent / "server.log") as process:
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
