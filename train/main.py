"""Train one stage: deepspeed train/main.py --stage warmup --config RECIPE --data DIR --output DIR"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from cma_clip.command import NoMemory, command, one_line
from model.networks import StageName
from train.cache.use import AUTO
from train.job import StageJob, open_job
from train.loop import train_stage
from train.parent import end_with_launcher
from train.ranks import is_first_rank, launched, meet, one_voice
from train.stage_parts import Parts, open_parts
from train.together import alone_in, compare, view


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args, overrides = parse_arguments(arguments)
    logging.basicConfig(format="%(message)s")
    logging.getLogger("kernels").setLevel(logging.INFO)  # what `kernels: auto` takes
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "torch.distributed.nn", FutureWarning, "open_clip")
    if "LOCAL_RANK" in os.environ:
        end_with_launcher()
    with one_voice():
        work, fault = open_work(args, overrides)
        finished = work is not None and work.job.state.finished
        # One that has nothing to do meets the others nevertheless: they may see another state, and would wait for it.
        if not finished or launched() > 1:
            with alone_in(args.output) if is_first_rank() and not finished else nullcontext(), meet() as ranks:
                compare(ranks, view(work.settled() if work else {}, fault), args.output)
                if work and work.parts:
                    work.job.check_unchanged()
                    with said_if_no_memory(work.job):
                        train_stage(work.job, work.parts, ranks)
    assert work  # else compare has refused
    say_next(work.job, f"stage {work.job.stage} has already finished in {work.job.directory}" if finished else "")


class Work(NamedTuple):
    job: StageJob
    parts: Parts | None

    def settled(self) -> dict[str, object]:
        """What all ranks have to see alike, by name."""
        return self.job.settled() | ({"cache": str(self.parts.cache)} if self.parts else {})


def open_work(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[Work | None, str | None]:
    """All that the stage needs, or why this rank has it not: all but the first tell the first, which raises."""
    try:
        job = open_job(args, overrides)
        return Work(job, None if job.state.finished else open_parts(job)), None
    except (ValueError, OSError) as error:
        if is_first_rank():
            raise
        return None, one_line(error)


@contextmanager
def said_if_no_memory(job: StageJob) -> Iterator[None]:
    """Raises NoMemory where a device has not enough of it."""
    try:
        yield
    except torch.OutOfMemoryError:
        products = job.ds_config["train_micro_batch_size_per_gpu"]
        less = f"--stages.{job.stage}.micro_batch_size {products // 2}" if products > 1 else "a smaller --model.clip"
        raise NoMemory(f"no memory on the device for {products} products at once; {less}") from None


def say_next(job: StageJob, before: str = "") -> None:
    if is_first_rank():
        if before:
            print(f"{before} (--restart does it again)")
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
        "--config": (Path("train/recipes/robust.yaml"), "recipe"),
        "--data": (Path("data/apa_mini"), "directory written by train.prepare"),
        "--output": (Path("runs/apa_mini"), "directory of the run, shared by its stages"),
    }
    for option, (default, meaning) in paths.items():
        parser.add_argument(option, type=Path, default=default, help=f"{meaning} (%(default)s)")
    parser.add_argument("--restart", action="store_true", help="forget what this stage has done so far")
    verify = "read all shards and compare their sha256, as is done wherever a run goes on"
    parser.add_argument("--verify", action="store_true", help=verify)
    cache = "auto reads what train.cache has made of these weights and products, off nothing; or its directory"
    parser.add_argument("--cache", default=AUTO, help=f"{cache} (%(default)s)", metavar="auto|off|DIR")
    parser.add_argument("--deepspeed_config", type=Path, help="JSON laid over the settings derived from the recipe")
    parser.add_argument("--local_rank", type=int, help="set by the launcher, which sets LOCAL_RANK as well")
    return parser.parse_known_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
