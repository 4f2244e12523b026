"""Whether /dev/shm holds what the ranks of this machine put there: without room for it they die of a bus error."""

from __future__ import annotations

import shutil
from pathlib import Path

from model.config import PreprocessConfig
from train.job import StageJob
from train.ranks import local_ranks, on_gpu

SHARED_MEMORY = Path("/dev/shm")
# What each rank on a CPU exchanges gradients through: struct allreduce_workspace of deepspeed/ops/csrc/cpu/comm/shm.cpp
# (deepspeed 0.19), which is written whole at the start.
BUFFER_BYTES = 67 << 20
BATCHES_AHEAD = 2  # of a loader process: torch's prefetch_factor


def check_shared_memory(job: StageJob, preprocess: PreprocessConfig) -> None:
    """Before the ranks meet.

    Raises:
        ValueError: there is too little room.
    """
    ranks = local_ranks()
    image_bytes = 3 * preprocess.image_size**2
    batch_bytes = job.ds_config["train_micro_batch_size_per_gpu"] * image_bytes
    needed = ranks * job.recipe.loader_workers * BATCHES_AHEAD * batch_bytes
    needed += ranks * BUFFER_BYTES if ranks > 1 and not on_gpu() else 0
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free < needed:
        raise ValueError(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB of room, {ranks} ranks with {job.recipe.loader_workers}"
            f" loader_workers each need {needed / 1e6:.0f} MB; enlarge it (docker run --shm-size 2g, or mount -o"
            f" remount,size=2g {SHARED_MEMORY}), or lower --loader_workers or micro_batch_size"
        )
