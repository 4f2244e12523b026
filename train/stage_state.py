"""Where a stage begins and how far it has come: read, written and checked here and nowhere else."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from cma_clip.files import clear_interrupted, new_directory, write_atomically
from cma_clip.settings import StrictModel, one_line, read_json
from model.config import BundleConfig, PreprocessConfig
from model.networks import NETWORKS, StageName
from model.tasks import TaskSet
from train.recipe import Recipe

# What may change when a run goes on: none of it decides which products an update sees or what it does.
SAFE_ON_RESUME = {"loader_workers", "checkpoint_minutes", "max_reject_fraction"}
BEGINNING = {"world_size", "data_hash", "label_set", "start"}
RESTART = "or add --restart to begin this stage anew"


class StageState(StrictModel):
    """How far a stage has come; the content of `state.json`, which is replaced in one step.

    Attributes:
        checkpoint: name of the DeepSpeed checkpoint that fits this state.
        files: sha256 of each of its files, by name; None in states of before.
        epoch, update: the next update to make, counted from 0; update within the epoch.
        best_loss, best_epoch: lowest validation loss so far and the epoch (from 1) that reached it.
        label_set: hash of the tasks and labels; None in states of before.
        start: sha256 of the weights of the stage before, None where it started without.
        finished: all epochs are done and the best weights are published.
        digest: sha256 over all the rest; None in states of before.
    """

    checkpoint: str | None = None
    files: dict[str, str] | None = None
    epoch: int = 0
    update: int = 0
    best_loss: float | None = None
    best_epoch: int = 0
    world_size: int
    data_hash: str
    label_set: str | None = None
    start: str | None = None
    finished: bool = False
    digest: str | None = None

    def own_digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"digest"}).encode()).hexdigest()


def read_state(stage_dir: Path) -> StageState | None:
    """The state of a stage, None if it has never saved a checkpoint.

    Raises:
        ValueError: state.json is damaged, or gone from beside a checkpoint.
    """
    path = stage_dir / "state.json"
    if not path.exists():
        left = sorted(other.name for other in (stage_dir / "checkpoints").glob("*") if other.is_dir())
        left += ["best"] if (stage_dir / "best").exists() else []
        if left:
            raise ValueError(
                f"{path}: no such file, yet {stage_dir} holds {', '.join(left)} of a run; put it back, or add --restart"
                " to forget them and begin this stage anew"
            )
        return None
    state = read_json(StageState, path)
    if state.digest not in (None, state.own_digest()):
        raise ValueError(f"{path}: damaged, its content has not the sha256 that it names; put back a copy, {RESTART}")
    return state if state.checkpoint or state.finished else None


def write_state(stage_dir: Path, state: StageState) -> None:
    state.digest = state.own_digest()
    write_atomically(stage_dir / "state.json", state.model_dump_json(indent=2) + "\n")


class Start(NamedTuple):
    """What a stage takes over from the best of the one before: the file of its weights, the preprocessing."""

    weights: Path
    sha256: str
    preprocess: PreprocessConfig


def start_of(stage: StageName, output: Path, recipe: Recipe, tasks: TaskSet) -> Start | None:
    """The best of the stage before, None where the stage starts from pretrained or random towers.

    Raises:
        ValueError: the stage before has not finished or trained another network, or nothing has
            trained the towers and nothing beside them sees titles or images.
    """
    previous, _ = NETWORKS[recipe.model.architecture].neighbours(stage)
    if previous is None:
        return None
    state = read_state(output / previous)
    if state and state.finished:
        return _start(output / previous / "best", recipe, tasks)
    command = f"deepspeed train/main.py --stage {previous} --config … --data … --output {output}"
    if previous != "contrastive" or (state and recipe.model.pretrained is None):
        reason = "has not finished" if state else "has not run"
        raise ValueError(f"stage {stage} starts from the best weights of {previous}, which {reason}; first: {command}")
    if recipe.model.pretrained is None and not recipe.model.sees_beside_towers:
        raise ValueError(
            f"stage {stage} freezes the towers, but they have no trained weights; set --model.pretrained (a tag such as"
            f" openai, or a file), or first: {command}"
        )
    return None


def _start(best: Path, recipe: Recipe, tasks: TaskSet) -> Start:
    """Weights may fit by their shapes and still mean another network, or other labels."""
    before = BundleConfig.read(best / "config.json")
    ours, theirs = (
        model.model_dump(exclude={"pretrained", "dropout", "kernels"}) for model in (recipe.model, before.model)
    )
    differences = [f"model.{key}: {theirs[key]} -> {ours[key]}" for key in ours if ours[key] != theirs[key]]
    if before.tasks.label_set_hash != tasks.label_set_hash:
        differences.append("the data set's tasks or labels")
    if differences:
        raise ValueError(
            f"{best} is another network ({'; '.join(differences)}); use the same recipe and data for all stages,"
            " or another --output"
        )
    weights = best / "model.safetensors"
    return Start(weights, before.check_weights(weights), before.preprocess)


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
    known = {name for name in BEGINNING if name != "label_set" or state.label_set}
    now = _settings(stage_dir.name, recipe, ds_config) | fresh.model_dump(include=known)
    before = _settings(stage_dir.name, *_begun_with(stage_dir)) | state.model_dump(include=known)
    keys = sorted(before.keys() | now.keys())
    differences = [f"{key}: {before.get(key)} -> {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
    if differences:
        raise ValueError(
            f"{stage_dir} was begun with other settings ({'; '.join(differences)}); go on with the old ones, {RESTART}"
        )


def _begun_with(stage_dir: Path) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and DeepSpeed's dictionary that `begin` stored."""
    path = stage_dir / "recipe.yaml"
    try:
        recipe = Recipe.model_validate(yaml.safe_load(path.read_bytes()))
        path = stage_dir / "deepspeed.json"
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = one_line(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise ValueError(f"{path}: missing or damaged ({reason}); put back a copy, {RESTART}") from None
    return recipe, config


def _settings(stage: str, recipe: Recipe, ds_config: dict[str, Any]) -> dict[str, object]:
    own = recipe.model_dump(exclude=SAFE_ON_RESUME | {"stages", "model"})
    return own | recipe.model.model_dump(exclude={"kernels"}) | getattr(recipe.stages, stage).model_dump() | ds_config


def begin(stage_dir: Path, recipe: Recipe, ds_config: dict[str, Any], state: StageState, restart: bool) -> None:
    """Store the resolved recipe and DeepSpeed's dictionary with the run; `restart` forgets what was there.

    What a kill left half-written goes. From here on there is a state.json as long as there is anything of the stage.
    """
    if restart:
        shutil.rmtree(stage_dir, ignore_errors=True)
    stage_dir.mkdir(parents=True, exist_ok=True)
    clear_interrupted(stage_dir)
    if not state.checkpoint:
        write_state(stage_dir, state)
    write_atomically(stage_dir / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False))
    write_atomically(stage_dir / "deepspeed.json", json.dumps(ds_config, indent=2) + "\n")
    keep_only(stage_dir, state.checkpoint)


def keep_only(stage_dir: Path, checkpoint: str | None) -> None:
    """Older checkpoints, and half ones, give their room back."""
    for other in (stage_dir / "checkpoints").glob("*"):
        if other.is_dir() and other.name != checkpoint:
            shutil.rmtree(other)


def finish(stage_dir: Path, state: StageState, bundle: Path | None) -> None:
    """Mark the stage as done; its best weights become the run's `bundle`, in one step."""
    if bundle:
        with new_directory(bundle) as partial:
            shutil.copytree(stage_dir / "best", partial, dirs_exist_ok=True)
    state.finished = True
    write_state(stage_dir, state)
