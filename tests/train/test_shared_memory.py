"""A container's /dev/shm that is too small for the ranks is said before they meet."""

from __future__ import annotations

import shutil
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import tiny_bundle_config

from train import shared_memory
from train.shared_memory import check_shared_memory

Usage = namedtuple("Usage", "total used free")
PREPROCESS = tiny_bundle_config().preprocess


def job(workers: int) -> Any:
    recipe = SimpleNamespace(loader_workers=workers)
    return SimpleNamespace(recipe=recipe, ds_config={"train_micro_batch_size_per_gpu": 1024})


@pytest.mark.parametrize(
    ("free_mb", "ranks", "workers", "is_enough"),
    [(1, 2, 0, False), (64, 2, 0, False), (150, 2, 0, True), (1, 1, 0, True), (1, 1, 4, False), (2000, 2, 4, True)],
)
def test_too_little_shared_memory_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, free_mb: int, ranks: int, workers: int, is_enough: bool
):
    monkeypatch.setenv("LOCAL_SIZE", str(ranks))
    monkeypatch.setattr(shared_memory, "on_gpu", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, free_mb << 20))
    if is_enough:
        check_shared_memory(job(workers), PREPROCESS)
    else:
        with pytest.raises(ValueError, match=r"/dev/shm has \d+ MB of room, .* need \d+ MB; .*--shm-size"):
            check_shared_memory(job(workers), PREPROCESS)
