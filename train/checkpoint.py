"""What a run leaves on disk: DeepSpeed's state to go on from, and bundles to start or serve from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import deepspeed
import torch.distributed as dist
import yaml

from cma_clip.files import new_directory, write_atomically
from model.bundle import save_bundle
from model.cma_clip import Network
from model.config import BundleConfig
from train.recipe import Recipe
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


def save_best(engine: deepspeed.DeepSpeedEngine, network: Network, stage_dir: Path, config: BundleConfig) -> None:
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
SAFE_ON_RESUME = {"loader_workers", "checkpoint_minutes", "max_reject_fraction"}
BEGINNING = {"world_size", "data_hash", "start"}


def check_resume(
    recipe: Recipe, ds_config: dict[str, Any], stage_dir: Path, state: StageState, fresh: StageState
) -> None:
    """Refuse to go on with other settings, data, ranks or starting weights.

    Args:
        state: of the stage as it was left.
        fresh: what it would begin with now.
    Raises:
        ValueError: naming every difference.
    """
    now = _settings(stage_dir.name, recipe, ds_config) | fresh.model_dump(include=BEGINNING)
    old_recipe = Recipe.model_validate(yaml.safe_load((stage_dir / "recipe.yaml").read_text()))
    old_config = json.loads((stage_dir / "deepspeed.json").read_text())
    before = _settings(stage_dir.name, old_recipe, old_config) | state.model_dump(include=BEGINNING)
    keys = sorted(before.keys() | now.keys())
    differences = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    if differences:
        raise ValueError(
            f"{stage_dir} was begun with other settings ({'; '.join(differences)});"
            " go on with the old ones, or add --restart to begin this stage anew"
        )


def _settings(stage: str, recipe: Recipe, ds_config: dict[str, Any]) -> dict[str, object]:
    own = recipe.model_dump(exclude=SAFE_ON_RESUME | {"stages", "model"})
    return own | recipe.model.model_dump(exclude={"kernels"}) | getattr(recipe.stages, stage).model_dump() | ds_config


def write_settings(stage_dir: Path, recipe: Recipe, ds_config: dict[str, Any]) -> None:
    """Store the resolved recipe and DeepSpeed's dictionary with the run."""
    stage_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(stage_dir / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    write_atomically(stage_dir / "deepspeed.json", json.dumps(ds_config, indent=2) + "\n")
