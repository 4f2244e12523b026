"""Which worker of `pytest --numprocesses N` runs what: whole files, those together that share what is made once.

The longest come first, so that all workers end at about the same time.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# In the order in which they start; all other files follow, each by itself.
GROUPS = (
    # A network is traced into ONNX once in a process.
    (
        "model/test_full_size.py",
        "serve/test_tensorrt.py",
        "serve/test_bisect.py",
        "serve/test_mixed_precision.py",
        "serve/test_export.py",
        "serve/test_runtimes.py",
        "bench/test_engines.py",
    ),
    # Ranks are forked from one process that has imported PyTorch and DeepSpeed.
    ("train/test_training.py", "train/test_score.py"),
    ("test_guides.py",),
    ("train/test_study.py",),
    ("serve/test_torch_package.py",),
    ("bench/test_image_limits.py",),
    # One server.
    (
        "client/test_retry.py",
        "client/predict/test_predict.py",
        "deploy/test_served.py",
        "deploy/test_monitoring.py",
        "deploy/test_containers.py",
        "serve/test_launch_production.py",
        "serve/test_launch_demo.py",
        "serve/publish/test_published.py",
        "bench/test_load_served.py",
        "bench/test_load_overload.py",
        "client/test_canary.py",
    ),
)
PLACES = {file: place for place, group in enumerate(GROUPS) for file in group}


def place_of(nodeid: str) -> int:
    file = nodeid.split("::")[0].removeprefix("tests/")
    return PLACES.get(file, len(GROUPS))


def in_order(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: place_of(item.nodeid))


class Scheduling(LoadScopeScheduling):
    """Gives out files and GROUPS in the order in which they were collected."""

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False  # else by the number of tests
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        place = place_of(nodeid)
        return nodeid.split("::")[0] if place == len(GROUPS) else f"group {place}"
