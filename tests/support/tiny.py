"""A tiny network, its bundle, and a stage of training as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rank_processes import Ranks
from server_process import free_ports

from model.clip_towers import create_clip, preprocess_config
from model.cma_clip import Network
from model.config import BundleConfig, ModelConfig
from model.networks import create_network
from model.tasks import SingleLabel, Task, TaskSet

ROOT = Path(__file__).parents[2]
TASKS = TaskSet(
    [
        SingleLabel(name="color", labels=["red", "blue", "green"]),
        SingleLabel(name="pattern", labels=["plain", "dots"]),
    ]
)
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
    return create_network(config, preprocess_config(clip), TaskSet(tasks), clip)


def tiny_bundle_config(config: ModelConfig | None = None, tasks: Sequence[Task] = TASKS) -> BundleConfig:
    config = config or tiny_config()
    return BundleConfig(model=config, preprocess=preprocess_config(create_clip(config)), tasks=tasks)


def deepspeed(*arguments: object, ranks: int = 2) -> list[str]:
    """The command line that a user types, and a port that no other run on this machine has."""
    launcher = Path(sys.executable).with_name("deepspeed")
    own = ["--num_accelerators", str(ranks), "--master_port", str(free_ports(1)[0])]
    return [str(launcher), *own, "train/main.py", *map(str, arguments)]


def environment() -> dict[str, str]:
    """That of a shell in which the virtual environment is active, on a machine without a GPU."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def run_stage(stage: str, data: Path, output: Path, *options: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    """The stage on ranks without a launcher, which takes 10 s longer."""
    with tempfile.TemporaryDirectory() as said:
        processes = Ranks([*options_of(stage, data, output), *options], Path(said), ranks)
        codes = processes.wait()
        result = subprocess.CompletedProcess(
            [], max(codes, key=abs), processes.said("stdout"), processes.said("stderr")
        )
    assert no_shared_memory_of(processes.port), "shared memory is left behind"
    return result


def launch_stage(stage: str, data: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The stage as a user starts it."""
    command = deepspeed(*options_of(stage, data, output), *options)
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert no_shared_memory_of(command[command.index("--master_port") + 1]), "shared memory is left behind"
    return result


def options_of(stage: str, data: Path, output: Path) -> list[str]:
    recipe = ROOT / "tests/support/tiny.yaml"
    return ["--stage", stage, "--config", str(recipe), "--data", str(data), "--output", str(output)]


def no_shared_memory_of(port: int | str) -> bool:
    return not list(Path("/dev/shm").glob(f"deepspeed_*_{port}_*"))
