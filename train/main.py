"""Train one stage: deepspeed train/main.py --stage warmup --config RECIPE --data DIR --output DIR"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from cma_clip.command import command
from model.networks import StageName
from train.job import open_job
from train.loop import train_stage
from train.ranks import is_first_rank, one_voice


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args, overrides = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("kernels").setLevel(logging.INFO)  # what `kernels: auto` takes
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "torch.distributed.nn", FutureWarning, "open_clip")
    with one_voice():
        job = open_job(args, overrides)
        was_finished = job.state.finished
        if not was_finished:
            train_stage(job)
    if is_first_rank():
        if was_finished:
            print(f"stage {job.stage} has already finished in {job.directory} (--restart does it again)")
        print("next:", job.next_command())


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
    verify = "read all shards and compare their sha256, as is done wherever a run goes on"
    parser.add_argument("--verify", action="store_true", help=verify)
    parser.add_argument("--deepspeed_config", type=Path, help="JSON laid over the settings derived from the recipe")
    parser.add_argument("--local_rank", type=int, help="set by the launcher, which sets LOCAL_RANK as well")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
