"""The study's plots, one file each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.study.results import REFERENCE, Confusion, Point, RunResult, Variants
from train.study.tables import tasks_of

STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.wspace": 0.06,
    "figure.dpi": 200,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}
# Paul Tol's muted colours: told apart by colour-blind readers.
COLORS = ("#332288", "#cc6677", "#44aa99", "#ddcc77", "#88ccee", "#aa4499", "#117733", "#882255", "#999933")
GROUPS = {"named": ("title names it", "#4477aa"), "not_named": ("title does not", "#ddaa33")}
METRIC = "recall_at_90_precision"
LABELS_WITH_NUMBERS = 25


def draw(data_set: str, variants: Variants, folder: Path) -> list[Path]:
    """Draw one data set's plots as PNG; those of λ and confusion show REFERENCE, where it was run."""
    paths = []
    with matplotlib.rc_context(STYLE):
        for name, figure in _figures(variants):
            paths.append(folder / f"{data_set}-{name}.png")
            figure.savefig(paths[-1], bbox_inches="tight")
    return paths


def _figures(variants: Variants) -> Iterator[tuple[str, Figure]]:
    tasks = tasks_of(variants)
    yield "recall", recall(variants, tasks)
    yield "curves", learning_curves(variants, tasks)
    if REFERENCE in variants:
        runs = variants[REFERENCE].runs
        yield "text_share", text_shares(runs, tasks)
        for task in runs[0].confusion:
            yield f"confusion-{task}", confusion(task, [run.confusion[task] for run in runs])


def _panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * count, height))
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def recall(variants: Variants, tasks: list[str]) -> Figure:
    """Recall at 90 % precision of each variant: every seed, their mean and its standard error."""
    figure, axes = _panels(len(tasks), 3.4, 0.9 + 0.34 * len(variants), sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        for place, variant in enumerate(variants.values()):
            value = variant[f"test/{task}/{METRIC}"]
            if value.mean is None:
                continue
            if value.standard_error is not None:
                seeds = list(value.values.values())
                axis.plot(seeds, [place + 0.25] * len(seeds), "o", color="#aaaaaa", markersize=2.5)
            error = value.standard_error
            axis.errorbar(value.mean, place, xerr=error, fmt="D", color=COLORS[0], markersize=4, capsize=3)
        axis.set_yticks(range(len(variants)), [variant.title for variant in variants.values()])
        axis.set_ylim(len(variants) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set(title=task, xlabel="recall at 90 % precision, test split")
    return figure


def text_shares(runs: list[RunResult], tasks: list[str]) -> Figure:
    """Histograms of λ, apart for titles that name the label and titles that do not."""
    figure, axes = _panels(len(tasks), 3.4, 2.6, sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        for name, (label, color) in GROUPS.items():
            groups = [getattr(run.named[task], name) for run in runs]
            counts = np.sum([group.histogram for group in groups], axis=0, dtype=float)
            if not counts.sum():
                continue
            mean = np.mean([group.text_share for group in groups if group.products])
            edges = np.linspace(0, 1, len(counts) + 1)
            axis.stairs(counts / counts.sum(), edges, fill=True, color=color, alpha=0.35)
            axis.stairs(counts / counts.sum(), edges, color=color, linewidth=1.4, label=f"{label}: mean {mean:.2f}")
        axis.set_title(task, pad=34)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
        axis.set(xlim=(0, 1), xlabel="text share λ")
    axes[0].set_ylabel("share of the products")
    return figure


def learning_curves(variants: Variants, tasks: list[str]) -> Figure:
    """Recall at 90 % precision on validation over all stages, the mean of the seeds; a line ends each stage."""
    figure, axes = _panels(len(tasks), 3.6, 3.2, sharex=True)
    for axis, task in zip(axes, tasks, strict=True):
        longest: dict[str, float] = {}
        for place, variant in enumerate(variants.values()):
            if not any(run.stages for run in variant.runs):  # a rival without a network
                continue
            seen, height, ends = mean_curve(variant.runs, f"{task}/{METRIC}")
            color = COLORS[place % len(COLORS)]
            axis.plot(seen, height, "o-", color=color, markersize=2.5, linewidth=1.2, label=variant.title)
            longest = max(longest, ends, key=len)
        _mark_stages(axis, longest)
        axis.set_title(task, pad=16)
        axis.set_xlabel("products seen, thousands")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes[0].set_ylabel("R@P90, validation split")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _mark_stages(axis: Axes, ends: dict[str, float]) -> None:
    start, high = 0.0, axis.get_xaxis_transform()
    for stage, end in ends.items():
        axis.axvline(end, color="#999999", linewidth=0.7, linestyle=":")
        name = stage.replace("_", " ")
        axis.text((start + end) / 2, 1.02, name, transform=high, ha="center", va="bottom", fontsize=7)
        start = end


def mean_curve(runs: Sequence[RunResult], key: str) -> tuple[list[float], list[float], dict[str, float]]:
    """One line through all stages.

    Args:
        key: `TASK/METRIC`.
    Returns:
        thousands of products seen; the mean of the seeds at each point that all of a stage's seeds reached;
        where each stage ends, thousands.
    """
    seen: list[float] = []
    height: list[float] = []
    ends: dict[str, float] = {}
    start = 0.0
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        curves = [_heights(run.stages[stage].curve, key) for run in runs if stage in run.stages]
        for products in sorted(set.intersection(*map(set, curves))):
            known = [curve[products] for curve in curves if curve[products] is not None]
            if known:
                seen.append(start + products / 1000)
                height.append(float(np.mean(known)))
        start += max(max(curve, default=0) for curve in curves) / 1000
        ends[stage] = start
    return seen, height, ends


def _heights(curve: list[Point], key: str) -> dict[int, Any]:
    return {point.products_seen: (point.model_extra or {}).get(key) for point in curve}


def confusion(task: str, parts: list[Confusion]) -> Figure:
    """Of each true label (row) the share that was answered with each label, all seeds together."""
    labels, counts = parts[0].labels, np.sum([part.counts for part in parts], axis=0)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_small = len(labels) <= LABELS_WITH_NUMBERS
    cell, size = (0.3, 8) if is_small else (0.16, 5)
    figure = Figure(figsize=(2.4 + cell * len(labels), 1.6 + cell * len(labels)))
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
    axis.spines[:].set_visible(False)
    axis.set(xlabel="answer", ylabel="true label", title=f"{task}: % of the true label" if is_small else task)
    if is_small:
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{100 * share[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=6)
    figure.colorbar(image, shrink=0.6, label="share of the true label")
    return figure
