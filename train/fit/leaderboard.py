"""The network beside what takes no network, task by task, and whether the difference is more than chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cma_clip.tables import aligned
from train.rivals.table import RIVALS

SHOWN = {"recall_at_90_precision": "R@P90", "mean_average_precision": "mAP"}
DECIDES = "recall_at_90_precision"
OURS = "CMA-CLIP"
BEYOND = 2.0  # standard errors

Metrics = Mapping[str, Mapping[str, Any]]


def leaderboard(score: Path, rivals: Path) -> str:
    """For people: a table of what `train.score` and `train.rivals` wrote, and a line a task that a rival wins.

    Args:
        rivals: may be missing.
    """
    ours = _metrics(score)
    theirs = {row.title: _metrics(rivals / name) for name, row in RIVALS.items() if (rivals / name).is_dir()}
    tasks = [task for task in ours if not theirs or all(task in metrics for metrics in theirs.values())]
    head = ["", *(f"{task} {short}" for task in tasks for short in SHOWN.values())]
    lines = [
        [title, *(_shown(metrics[task][name]) for task in tasks for name in SHOWN)]
        for title, metrics in {**theirs, OURS: ours}.items()
    ]
    return "\n".join([aligned([head, *lines]), *(line for task in tasks for line in _verdict(task, ours, theirs))])


def _metrics(directory: Path) -> Metrics:
    return json.loads((directory / "metrics.json").read_text())["tasks"]


def _shown(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _verdict(task: str, ours: Metrics, theirs: Mapping[str, Metrics]) -> list[str]:
    """Nothing where no rival is ahead by more than chance.

    R@P90 is taken as a share of so many products, drawn twice: that both judged the same ones makes the error smaller.
    """
    own, products = ours[task][DECIDES], ours[task]["products"]
    known = {title: metrics[task][DECIDES] for title, metrics in theirs.items() if metrics[task][DECIDES] is not None}
    if not known or not products:
        return []
    title = max(known, key=lambda name: known[name])
    best, own = known[title], own or 0.0
    error = math.sqrt((best * (1 - best) + own * (1 - own)) / products)
    if best - own <= BEYOND * error:
        return []
    return [
        f"note: {task}: {title} is ahead, {best:.3f} against {own:.3f} (± {error:.3f}); more epochs"
        f" (--stages.end_to_end.epochs, no --minutes) or more products with this label may help the network"
    ]
