"""Train one stage: deepspeed train/main.py --stage warmup --config RECIPE --data DIR --output DIR"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import deepspeed
import torch
import torch.distributed as dist

from model.clip_towers import preprocess_config
from model.cma_clip import CMAClip
from model.preprocess import TitleTokenizer
from model.tokenizer import build_tokenizer
from train import checkpoint, stages
from train.config import Recipe, StageName, deepspeed_config, load_recipe
from train.data import ProductDataset
from train.data_format import DatasetInfo
from train.evaluation import Ranks
from train.loop import StageRun, Stopped

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    args, overrides = parse_arguments(arguments)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        run(args, load_recipe(args.config, overrides))
    except ValueError as error:
        if is_first_rank():
            print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except Stopped:
        if is_first_rank():
            print("stopped; its checkpoint is written: the same command goes on from there", flush=True)
        return EXIT_STOPPED
    return 0


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="deepspeed train/main.py",
        description="Train one stage of CMA-CLIP.",
        epilog="Any setting of the recipe can be given as a dotted option, e.g. --stages.warmup.epochs 3",
        allow_abbrev=False,
    )
    parser.add_argument("--stage", required=True, choices=get_args(StageName))
    parser.add_argument("--config", required=True, type=Path, help="recipe, train/recipes/NAME.yaml")
    parser.add_argument("--data", required=True, type=Path, help="directory written by train.prepare")
    parser.add_argument("--output", required=True, type=Path, help="directory of the run, shared by its stages")
    parser.add_argument("--restart", action="store_true", help="forget what this stage has done so far")
    parser.add_argument("--deepspeed_config", type=Path, help="JSON that replaces the settings derived from the recipe")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the launcher")
    return parser.parse_known_args(arguments)


def run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Do what is left of the stage.

    Raises:
        ValueError: recipe, data, stage order or weights do not fit; nothing has been written then.
    """
    info = DatasetInfo.read(args.data)
    stage_dir, world_size = args.output / args.stage, int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available()
    ds_config = deepspeed_config(recipe, getattr(recipe.stages, args.stage), world_size, on_gpu)
    if args.deepspeed_config:
        ds_config |= read_deepspeed_config(args.deepspeed_config)
    state = None if args.restart else stages.read_state(stage_dir)
    if state:
        checkpoint.check_resume(recipe, args.stage, stage_dir, state, info.hash, world_size)
    if not (state and state.finished):
        state = state or stages.StageState(world_size=world_size, data_hash=info.hash)
        train_stage(args, recipe, info, state, ds_config)
    elif is_first_rank():
        print(f"stage {args.stage} has already finished in {stage_dir} (--restart does it again)")
    if is_first_rank():
        print("next:", stages.next_command(args.stage, args.config, args.data, args.output, len(info.tasks)))


def train_stage(
    args: argparse.Namespace, recipe: Recipe, info: DatasetInfo, state: stages.StageState, ds_config: dict[str, Any]
) -> None:
    stage_dir = args.output / args.stage
    torch.manual_seed(recipe.seed)
    network = stages.build_network(recipe, info.tasks, stages.start_weights(args.stage, args.output, recipe))
    stages.freeze(network, args.stage)
    train, validation = open_splits(args.data, recipe, network)
    config = getattr(recipe.stages, args.stage)
    if len(train) < config.batch_size:
        raise ValueError(
            f"stages.{args.stage}.batch_size {config.batch_size} is more than the {len(train)} products to train on"
        )
    share_cores()
    deepspeed.init_distributed(verbose=False)
    if args.restart and is_first_rank():
        shutil.rmtree(stage_dir, ignore_errors=True)
    if is_first_rank():
        checkpoint.write_recipe(stage_dir, recipe)
    dist.barrier()
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), local_device(args.local_rank))
    StageRun(args.stage, recipe, network, train, validation, stage_dir, state, ds_config, ranks).run()
    if is_first_rank():
        if args.stage != "contrastive":
            checkpoint.publish(stage_dir, args.output / "bundle")
        state.finished = True
        checkpoint.write_state(stage_dir, state)
        print(f"stage {args.stage}: epoch {state.best_epoch} is the best, validation loss {state.best_loss:.4f}")
    dist.barrier()


def open_splits(data: Path, recipe: Recipe, network: CMAClip) -> tuple[ProductDataset, ProductDataset]:
    preprocess = preprocess_config(network.towers.clip)
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    cached = recipe.shuffle_row_groups
    train, validation = (ProductDataset(data, s, preprocess, tokenizer, cached) for s in ("train", "validation"))
    return train, validation


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable DeepSpeed configuration: {error}") from None


def local_device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def share_cores() -> None:
    """Give each rank on a CPU its part of the cores; torch would give every rank all of them."""
    if not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_SIZE", "1"))))


def is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
