"""The network beside what takes no network, task by task, and whether a difference is more than chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cma_clip.tables import aligned
from train.rivals.table import RIVALS

OURS = "CMA-CLIP"
BEYOND = 2.0  # standard errors

Metrics = Mapping[str, Mapping[str, Any]]


def leaderboard(score: Path, rivals: Path) -> str:
    """For people: a table of what `train.score` and `train.rivals` wrote, a note for each task that a rival wins, and
    what is promised of the answers that are accepted.

    Args:
        rivals: may be missing.
    """
    ours = _metrics(score)
    theirs = {row.title: _metrics(rivals / name) for name, row in RIVALS.items() if (rivals / name).is_dir()}
    everyone = {**theirs, OURS: ours}
    lines = [["recall at 90 % precision, mean average precision", "products", *everyone]]
    for task in ours:
        cells = (_shown(metrics[task]) if task in metrics else "" for metrics in everyone.values())
        lines.append([task, f"{ours[task]['products']:,}", *cells])
    notes = filter(None, (_verdict(task, ours[task], theirs) for task in ours))
    return "\n".join([aligned(lines), *notes, *_notes(score)])


def _notes(directory: Path) -> list[str]:
    """What `train.score` found to be said."""
    notes: list[str] = json.loads((directory / "metrics.json").read_text())["notes"]
    return notes


def _metrics(directory: Path) -> Metrics:
    return json.loads((directory / "metrics.json").read_text())["tasks"]


def _shown(metrics: Mapping[str, Any]) -> str:
    values = metrics["recall_at_90_precision"], metrics["mean_average_precision"]
    return ", ".join("n/a" if value is None else f"{value:.3f}" for value in values)


def _verdict(task: str, ours: Mapping[str, Any], theirs: Mapping[str, Metrics]) -> str | None:
    """None where no rival is ahead by more than chance.

    R@P90 is taken as a share of the products, of two samples: that both judged the same ones makes the error smaller.
    """
    known = {title: _recall(metrics[task]) for title, metrics in theirs.items() if task in metrics}
    if not known or not ours["products"]:
        return None
    title, own = max(known, key=lambda name: known[name]), _recall(ours)
    error = math.sqrt(sum(share * (1 - share) for share in (known[title], own)) / ours["products"])
    if known[title] - own <= BEYOND * error:
        return None
    return (
        f"note: {task}: {title} is ahead, {known[title]:.3f} against {own:.3f} (standard error {error:.3f}); what may"
        " help the network: more epochs (--stages.end_to_end.epochs, no --minutes), more products, CLIP's weights"
        " (--model.pretrained)"
    )


def _recall(metrics: Mapping[str, Any]) -> float:
    return metrics["recall_at_90_precision"] or 0.0
