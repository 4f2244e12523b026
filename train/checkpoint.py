"""What training leaves on disk: DeepSpeed's state to go on from, and bundles to start or serve from."""

from __future__ import annotations

import shutil
from pathlib import Path

import deepspeed
import torch.distributed as dist

from model.bundle import save_bundle
from model.cma_clip import Network
from model.config import BundleConfig
from train.stage_state import StageState, write_state


def save(engine: deepspeed.DeepSpeedEngine, stage_dir: Path, state: StageState) -> None:
    """Write a checkpoint beside the last one, then point state.json at it; every rank calls this.

    DeepSpeed's own `latest` file is not safe against a crash and is not written.
    """
    checkpoints = stage_dir / "checkpoints"
    state.checkpoint = f"epoch{state.epoch}-update{state.update}"
    engine.save_checkpoint(str(checkpoints), state.checkpoint, save_latest=False, exclude_frozen_parameters=True)
    dist.barrier()
    if dist.get_rank() == 0:
        write_state(stage_dir, state)
        for other in checkpoints.iterdir():
            if other.is_dir() and other.name != state.checkpoint:
                shutil.rmtree(other)
    dist.barrier()


def load(engine: deepspeed.DeepSpeedEngine, stage_dir: Path, state: StageState) -> None:
    """Take up weights, optimizer and schedule of the checkpoint that `state` names.

    Raises:
        ValueError: the checkpoint is not there.
    """
    assert state.checkpoint is not None
    path, _ = engine.load_checkpoint(str(stage_dir / "checkpoints"), state.checkpoint, load_module_strict=False)
    if path is None:
        raise ValueError(
            f"{stage_dir / 'checkpoints' / state.checkpoint}: no such checkpoint; start again with --restart"
        )


def save_best(engine: deepspeed.DeepSpeedEngine, network: Network, stage_dir: Path, config: BundleConfig) -> None:
    """Write the network as `best`; every rank calls this, as ZeRO-3 has to gather the weights."""
    is_partitioned = engine.zero_optimization_stage() == 3
    with deepspeed.zero.GatheredParameters(list(network.parameters()), enabled=is_partitioned):
        if dist.get_rank() == 0:
            save_bundle(stage_dir / "best", config, network)
