"""What a run leaves on disk: DeepSpeed's state to go on from, and bundles to start or serve from."""

from __future__ import annotations

import shutil
from pathlib import Path

import deepspeed
import torch.distributed as dist
import yaml

from model.bundle import save_bundle
from model.cma_clip import CMAClip
from model.config import BundleConfig
from model.files import new_directory, write_atomically
from train.config import Recipe
from train.stages import StageState


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


def write_state(stage_dir: Path, state: StageState) -> None:
    write_atomically(stage_dir / "state.json", state.model_dump_json(indent=2) + "\n")


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


def save_best(engine: deepspeed.DeepSpeedEngine, network: CMAClip, stage_dir: Path, config: BundleConfig) -> None:
    """Write the network as `best`; every rank calls this, as ZeRO-3 has to gather the weights."""
    is_partitioned = engine.zero_optimization_stage() == 3
    with deepspeed.zero.GatheredParameters(list(network.parameters()), enabled=is_partitioned):
        if dist.get_rank() == 0:
            save_bundle(stage_dir / "best", config, network)


def publish(stage_dir: Path, bundle: Path) -> None:
    """Copy the stage's best weights to the run's bundle, in one step."""
    with new_directory(bundle) as partial:
        shutil.copytree(stage_dir / "best", partial, dirs_exist_ok=True)


# What may change when a run goes on: none of it decides which products an update sees or what it does.
SAFE_ON_RESUME = ("loader_workers", "checkpoint_minutes", "max_reject_fraction")


def check_resume(recipe: Recipe, stage: str, stage_dir: Path, state: StageState, data_hash: str, ranks: int) -> None:
    """Refuse to go on with other settings, other data or another number of ranks.

    Raises:
        ValueError: naming every difference.
    """
    before = Recipe.model_validate(yaml.safe_load((stage_dir / "recipe.yaml").read_text()))
    differences = [
        f"{key}: {old} -> {new}"
        for (key, old), (_, new) in zip(_settings(before, stage), _settings(recipe, stage), strict=True)
        if old != new
    ]
    if state.data_hash != data_hash:
        differences.append(f"data: {state.data_hash[:12]} -> {data_hash[:12]}")
    if state.world_size != ranks:
        differences.append(f"ranks: {state.world_size} -> {ranks}")
    if differences:
        raise ValueError(
            f"{stage_dir} was begun with other settings ({'; '.join(differences)});"
            " go on with the old ones, or add --restart to begin this stage anew"
        )


def _settings(recipe: Recipe, stage: str) -> list[tuple[str, object]]:
    parts = recipe.model_dump(exclude=set(SAFE_ON_RESUME) | {"stages", "model"})
    own = getattr(recipe.stages, stage).model_dump()
    return [*parts.items(), *recipe.model.model_dump().items(), *own.items()]


def write_recipe(stage_dir: Path, recipe: Recipe) -> None:
    """Store the resolved recipe with the run."""
    stage_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(stage_dir / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
