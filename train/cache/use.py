"""Which cache a stage reads, if any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset.resume import beside
from model.cma_clip import CMAClip, Network
from model.config import PreprocessConfig
from model.networks import StageName
from model.tasks import TaskSet
from train.cache.layout import CacheInfo, Kind, cache_info, columns_of
from train.cache.rows import CachedProducts, CachedUnderWrongTitles
from train.data import ProductDataset
from train.job import StageJob
from train.ranks import is_first_rank
from train.recipe import StageConfig

AUTO, OFF = "auto", "off"
KINDS: dict[StageName, Kind] = {"warmup": "tokens", "tuning": "vectors"}


def cache_for(job: StageJob, network: Network, preprocess: PreprocessConfig) -> Path | None:
    """The directory of the cache that the stage shall read.

    Raises:
        ValueError: the one that was asked for cannot be read by this stage, or is of something else.
    """
    if job.cache == OFF:
        return None
    obstacle, is_asked_for = obstacle_of(job.stage, network, job.settings), job.cache != AUTO
    if obstacle and is_asked_for:
        raise ValueError(f"--cache {job.cache}: {obstacle}")
    if obstacle:
        _say(job, f"no cache is read: {obstacle}")
        return None
    assert isinstance(network, CMAClip)
    wanted = cache_info(KINDS[job.stage], network, job.recipe.model, preprocess, job.info.hash)
    directory = Path(job.cache) if is_asked_for else wanted.directory(job.data)
    if not is_asked_for and not directory.exists():
        _say(job, f"no cache is read: none of these weights and products for {job.stage} is there")
        return None
    CacheInfo.read(directory).check(wanted, directory)
    _say(job, f"stage {job.stage} reads {directory} in the place of titles and images")
    return directory


def obstacle_of(stage: StageName, network: Network, settings: StageConfig) -> str | None:
    """Why the stage can read no cache; None if it can."""
    if stage not in KINDS:
        return f"stage {stage} trains the towers; a cache is for {' and '.join(KINDS)}"
    if not isinstance(network, CMAClip):
        return "only cma_clip can read a cache"
    if stage == "tuning" and settings.mismatched > 0:
        return "stages.tuning.mismatched exchanges titles and images that are mixed in it; with 0 it can be read"
    return None


def as_cached(
    directory: Path,
    network: CMAClip,
    split: str,
    original: ProductDataset,
    judges: bool = False,
    tasks: TaskSet | None = None,
    labels: Mapping[str, Any] | None = None,
) -> CachedProducts:
    """A split as the cache has it.

    Args:
        judges: the network is judged by it, so a mismatch needs wrong titles.
        tasks, labels: as CachedProducts.
    """
    info = CacheInfo.read(directory)
    columns = columns_of(info.kind, network, info.preprocess.context_length)
    kind = CachedUnderWrongTitles if judges and original.tasks.is_mismatch_C.any() else CachedProducts
    return kind(original, directory, split, info, columns, tasks, labels)


def _say(job: StageJob, line: str) -> None:
    """Where somebody has made a cache for this data set, or asks for one."""
    if is_first_rank() and (job.cache != AUTO or beside(job.data, "cache").exists()):
        print(line)
