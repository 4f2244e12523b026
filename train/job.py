"""One stage of a run as it was asked for: read and checked whole, before anything is written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset.format import DatasetInfo
from dataset.verify import check_sizes
from model.networks import NETWORKS, Architecture, StageName
from model.tasks import TaskSet
from train.class_weights import check_class_weights
from train.learnable import check_learnable
from train.logs import read_log
from train.ranks import launched, on_gpu
from train.recipe import Recipe, StageConfig, deepspeed_config, load_recipe
from train.stage_state import StageState, Start, check_resume, read_state, start_of


@dataclass(frozen=True)
class StageJob:
    """What main hands to the training.

    Attributes:
        recipe_path: file that `recipe` came from, before dotted options.
        data, output: directories of the data set and of the run, which its stages share.
        info: of the data set.
        ds_config: DeepSpeed's dictionary.
        start: of the stage before; None where pretrained or random towers begin.
        state: where the stage stands; changes as it goes.
        restart: what the stage has left on disk is to be forgotten.
        verify: all shards are to be read and compared, not only those that look changed.
        cache: `auto`, `off`, or the directory of one (train.cache.use).
    """

    stage: StageName
    recipe: Recipe
    recipe_path: Path
    data: Path
    output: Path
    info: DatasetInfo
    ds_config: dict[str, Any]
    start: Start | None
    state: StageState
    restart: bool
    verify: bool
    cache: str

    @property
    def directory(self) -> Path:
        return self.output / self.stage

    @property
    def settings(self) -> StageConfig:
        return getattr(self.recipe.stages, self.stage)

    @property
    def architecture(self) -> Architecture:
        return NETWORKS[self.recipe.model.architecture]

    @property
    def tasks(self) -> TaskSet:
        """What the network answers."""
        return answered(self.recipe, self.info)

    def next_command(self) -> str:
        """What to run when this stage is done. A single task needs no tuning (section 3.2.2)."""
        _, following = self.architecture.neighbours(self.stage)
        if following is None or (following == "tuning" and len(self.info.tasks) == 1):
            return f"python -m serve.export {self.output / 'bundle'} --deploy deploy"
        paths = f"--config {self.recipe_path} --data {self.data} --output {self.output}"
        return f"deepspeed train/main.py --stage {following} {paths}"

    def settled(self) -> dict[str, object]:
        """What all ranks have to see alike, by name."""
        return {
            "stage": self.stage,
            "settings": self.recipe.model_dump(mode="json"),
            "DeepSpeed's settings": self.ds_config,
            "state": self.state.model_dump(mode="json"),
        }

    def check_unchanged(self) -> None:
        """Between the reading of the state and the lock another run may have ended.

        Raises:
            ValueError: it has.
        """
        if not self.restart and (read_state(self.directory) or self.state) != self.state:
            raise ValueError(f"{self.directory}: another run has just gone on here; repeat the command")


def answered(recipe: Recipe, info: DatasetInfo) -> TaskSet:
    """The data set's tasks, and `mismatch` where the recipe asks for it.

    Raises:
        ValueError: the data set has a task of that name.
    """
    return info.tasks.with_mismatch() if recipe.mismatch else info.tasks


def open_job(args: argparse.Namespace, overrides: Sequence[str]) -> StageJob:
    """Read all that decides the stage.

    Args:
        args: options of train/main.py.
        overrides: dotted options as on the command line.
    Raises:
        ValueError: recipe, data, stage order or weights do not fit each other, or what the stage was begun with.
    """
    recipe, directory = load_recipe(args.config, overrides), args.output / args.stage
    settings = getattr(recipe.stages, args.stage)
    ds_config = deepspeed_config(recipe, settings, launched(), on_gpu(), args.deepspeed_config)
    info = DatasetInfo.read(args.data)
    check_class_weights(recipe.class_weights, info.tasks)
    check_sizes(args.data, info)
    check_learnable(args.stage, args.data, info)
    tasks = answered(recipe, info)
    start = start_of(args.stage, args.output, recipe, tasks)
    fresh = StageState(
        world_size=launched(),
        data_hash=info.hash,
        label_set=tasks.label_set_hash,
        start=start.sha256 if start else None,
    )
    state = None if args.restart else read_state(directory)
    if state:
        check_resume(recipe, ds_config, directory, state, fresh)
        read_log(directory / "log.jsonl")
    paths = (args.config, args.data, args.output)
    verify = args.verify or state is not None
    begun = (start, state or fresh, args.restart)
    return StageJob(args.stage, recipe, *paths, info, ds_config, *begun, verify, args.cache)
