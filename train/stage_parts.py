"""What a stage works on, opened and checked before anything is written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from model.bundle import build_network
from model.cma_clip import CMAClip, Network
from train.cache.use import as_cached, cache_for
from train.data import ProductDataset, open_splits
from train.job import StageJob
from train.ranks import is_first_rank
from train.shared_memory import check_shared_memory
from train.stages import freeze
from train.wrong_titles import judged_by


class Parts(NamedTuple):
    """What a stage trains, frozen as it wants it, on what, and by what it is judged; `cache` where that is read."""

    network: Network
    train: ProductDataset
    validation: ProductDataset
    cache: Path | None = None


def open_parts(job: StageJob) -> Parts:
    """All that a stage works on, before anything is written.

    Raises:
        ValueError: data or weights do not fit.
    """
    torch.manual_seed(job.recipe.seed)
    weights, preprocess = (job.start.weights, job.start.preprocess) if job.start else (None, None)
    network, preprocess = build_network(job.recipe.model, job.tasks, preprocess, weights)
    check_shared_memory(job, preprocess)
    freeze(network, job.stage, job.architecture)
    train, validation = open_splits(job.data, preprocess, job.recipe.shuffle_row_groups, job.tasks)
    if is_first_rank() and train.cache_size < job.recipe.shuffle_row_groups:
        print(f"{train.name}: its row groups are large, so products are shuffled among {train.cache_size} of them")
    if len(train) < job.settings.batch_size:
        what = f"stages.{job.stage}.batch_size {job.settings.batch_size}"
        raise ValueError(f"{what} is more than the {len(train)} products to train on")
    cache = cache_for(job, network, preprocess)
    if cache:
        assert isinstance(network, CMAClip)
        train = as_cached(cache, network, "train", train)
        return Parts(network, train, as_cached(cache, network, "validation", validation, judges=True), cache)
    return Parts(network, train, validation if job.stage == "contrastive" else judged_by(validation))
