"""Shards against the manifest of the data set, before a stage trains on them."""

from __future__ import annotations

import os
import sys

from dataset.verify import changed_shard, not_described
from train.job import StageJob
from train.ranks import is_first_rank, local_ranks, raise_together, tell


def verify_shards(job: StageJob) -> None:
    """Read what may have changed, the ranks of each machine together; every rank calls this.

    Raises:
        ValueError: a shard is not what dataset.json describes.
    """
    part = int(os.environ.get("LOCAL_RANK", "0"))
    raise_together(tell(changed_shard(job.data, job.info, job.verify, part, local_ranks())))
    for path in not_described(job.data, job.info) if is_first_rank() else []:
        print(f"{path}: dataset.json does not name it; it is not trained on", file=sys.stderr)
