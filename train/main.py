"""Train one stage: deepspeed train/main.py --stage warmup --config RECIPE --data DIR --output DIR"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator

from dataset.format import DatasetInfo
from model.config import PreprocessConfig
from model.networks import NETWORKS, StageName
from model.preprocess import TitleTokenizer
from model.tasks import TaskSet
from model.tokenizer import build_tokenizer
from train import checkpoint, stages
from train.class_weights import check_class_weights
from train.data import ProductDataset
from train.evaluation import Ranks
from train.loop import StageRun, Stopped
from train.recipe import Recipe, deepspeed_config, load_recipe, merge_deepspeed_config

EXIT_BAD_INPUT, EXIT_STOPPED = 2, 75


def main(arguments: Sequence[str] | None = None) -> int:
    args, overrides = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("kernels").setLevel(logging.INFO)  # what `kernels: auto` takes
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "torch.distributed.nn", FutureWarning, "open_clip")
    try:
        run(args, load_recipe(args.config, overrides))
    except (ValueError, OSError) as error:
        # Before the ranks have met, all find the same fault; later each may find its own.
        together = dist.is_initialized()
        if is_first_rank() or together:
            start = "\n" if together else ""  # the first rank's progress bar may hold the line
            print(f"{start}error: {one_line(error)}", file=sys.stderr, flush=True)
        return EXIT_BAD_INPUT
    except Stopped:
        if is_first_rank():
            print("stopped; its checkpoint is written: the same command goes on from there", flush=True)
        return EXIT_STOPPED
    return 0


def one_line(error: Exception) -> str:
    """The message; of an error in a loader process, which torch hands on with its traceback, the last line."""
    text = str(error).strip()
    return text.splitlines()[-1] if text.startswith("Caught ") else " ".join(text.split())


def parse_arguments(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="deepspeed train/main.py",
        description="Train one stage of CMA-CLIP.",
        epilog="Any setting of the recipe can be given as a dotted option, e.g. --stages.warmup.epochs 3",
        allow_abbrev=False,
    )
    parser.add_argument("--stage", required=True, choices=get_args(StageName))
    paths = {
        "--config": (Path("train/recipes/apa_mini.yaml"), "recipe"),
        "--data": (Path("data/apa_mini"), "directory written by train.prepare"),
        "--output": (Path("runs/apa_mini"), "directory of the run, shared by its stages"),
    }
    for option, (default, meaning) in paths.items():
        parser.add_argument(option, type=Path, default=default, help=f"{meaning} (%(default)s)")
    parser.add_argument("--restart", action="store_true", help="forget what this stage has done so far")
    parser.add_argument("--deepspeed_config", type=Path, help="JSON laid over the settings derived from the recipe")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the launcher")
    return parser.parse_known_args(arguments)


def run(args: argparse.Namespace, recipe: Recipe) -> None:
    """Do what is left of the stage.

    Raises:
        ValueError: recipe, data, stage order or weights do not fit; nothing has been written then.
    """
    info, stage_dir = DatasetInfo.read(args.data), args.output / args.stage
    check_class_weights(recipe.class_weights, info.tasks)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    ds_config = deepspeed_config(recipe, getattr(recipe.stages, args.stage), world_size, on_gpu())
    if args.deepspeed_config:
        ds_config = merge_deepspeed_config(ds_config, args.deepspeed_config)
    start = stages.start_bundle(args.stage, args.output, recipe, info.tasks)
    fresh = stages.StageState(world_size=world_size, data_hash=info.hash, start=stages.sha256(start))
    state = None if args.restart else stages.read_state(stage_dir)
    if state:
        checkpoint.check_resume(recipe, ds_config, stage_dir, state, fresh)
    if not (state and state.finished):
        train_stage(args, recipe, info.tasks, start, state or fresh, ds_config)
    elif is_first_rank():
        print(f"stage {args.stage} has already finished in {stage_dir} (--restart does it again)")
    if is_first_rank():
        paths = (args.config, args.data, args.output)
        print("next:", stages.next_command(args.stage, recipe.model, *paths, len(info.tasks)))


def train_stage(
    args: argparse.Namespace,
    recipe: Recipe,
    tasks: TaskSet,
    start: Path | None,
    state: stages.StageState,
    ds_config: dict[str, Any],
) -> None:
    stage_dir = args.output / args.stage
    torch.manual_seed(recipe.seed)
    network, preprocess = stages.build_network(recipe, tasks, start)
    stages.freeze(network, args.stage, NETWORKS[recipe.model.architecture])
    train, validation = open_splits(args.data, recipe, preprocess)
    batch_size = getattr(recipe.stages, args.stage).batch_size
    if len(train) < batch_size:
        raise ValueError(
            f"stages.{args.stage}.batch_size {batch_size} is more than the {len(train)} products to train on"
        )
    share_cores()
    deepspeed.init_distributed(verbose=False)
    if is_first_rank():
        if args.restart:
            shutil.rmtree(stage_dir, ignore_errors=True)
        checkpoint.write_settings(stage_dir, recipe, ds_config)
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
    # Left to the interpreter's exit, gloo's threads now and then abort a rank that has finished.
    dist.destroy_process_group()


def open_splits(data: Path, recipe: Recipe, preprocess: PreprocessConfig) -> tuple[ProductDataset, ProductDataset]:
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    cached = recipe.shuffle_row_groups
    train, validation = (ProductDataset(data, s, preprocess, tokenizer, cached) for s in ("train", "validation"))
    return train, validation


def on_gpu() -> bool:
    """What DeepSpeed computes on; DS_ACCELERATOR=cpu keeps it off a GPU that is there."""
    return get_accelerator().device_name() != "cpu"


def local_device(local_rank: int) -> torch.device:
    """This rank's device, by LOCAL_RANK, which every launcher sets."""
    if not on_gpu():
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", local_rank))
    get_accelerator().set_device(index)
    return torch.device(get_accelerator().device_name(index))


def share_cores() -> None:
    """Give each rank on a CPU its part of the cores; torch would give every rank all of them."""
    if not on_gpu() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_SIZE", "1"))))


def is_first_rank() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


if __name__ == "__main__":
    sys.exit(main())
