"""The study's plots, one file each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from train.study.results import REFERENCE
from train.study.tables import Variants, name_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
GROUP_COLORS = {"named": "#4477aa", "not_named": "#ddaa33"}
GROUP_NAMES = {"named": "title names it", "not_named": "title does not"}
CURVE_METRIC = "recall_at_90_precision"
LABELS_WITH_NUMBERS = 25


def draw(data_set: str, variants: Variants, folder: Path) -> list[Path]:
    """Draw one data set's plots as PNG; those of λ and confusion show REFERENCE, where it was run.

    Args:
        variants: of one data set, from train.study.results.aggregate.
    """
    paths = []
    with plt.rc_context(STYLE):
        for name, figure in _figures(variants):
            paths.append(folder / f"{data_set}-{name}.png")
            figure.savefig(paths[-1], bbox_inches="tight")
            plt.close(figure)
    return paths


def _figures(variants: Variants) -> Iterator[tuple[str, Figure]]:
    tasks = list(dict.fromkeys(task for values in variants.values() for task in values["test"]))
    yield "recall", recall(variants, tasks)
    yield "curves", learning_curves(variants, tasks)
    if REFERENCE in variants:
        yield "text_share", text_shares(variants[REFERENCE]["named"])
        for task, matrix in variants[REFERENCE]["confusion"].items():
            yield f"confusion-{task}", confusion(task, matrix["labels"], np.array(matrix["counts"]))


def _panels(count: int, width: float, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    figure, axes = plt.subplots(1, count, figsize=(width * count, height), squeeze=False, **options)
    return figure, list(axes[0])


def recall(variants: Variants, tasks: list[str]) -> Figure:
    """Recall at 90 % precision of each variant: every seed, their mean and its standard error."""
    figure, axes = _panels(len(tasks), 3.4, 0.9 + 0.34 * len(variants), sharey=True)
    for axis, task in zip(axes, tasks, strict=True):
        for place, values in enumerate(variants.values()):
            value = values["test"].get(task, {}).get(CURVE_METRIC)
            if value and value["n"]:
                seeds = list(value["values"].values())
                if len(seeds) > 1:
                    axis.plot(seeds, [place + 0.25] * len(seeds), "o", color="#aaaaaa", markersize=2.5)
                error = value["standard_error"]
                axis.errorbar(value["mean"], place, xerr=error, fmt="D", color=COLORS[0], markersize=4, capsize=3)
        axis.set_yticks(range(len(variants)), [name_of(variant) for variant in variants])
        axis.set_ylim(len(variants) - 0.5, -0.5)
        axis.margins(x=0.08)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_title(task)
        axis.set_xlabel("recall at 90 % precision, test split")
    return figure


def text_shares(named: dict[str, Any]) -> Figure:
    """Histograms of λ, apart for titles that name the label and titles that do not."""
    figure, axes = _panels(len(named), 3.4, 2.6, sharey=True)
    for axis, (task, groups) in zip(axes, named.items(), strict=True):
        for name, color in GROUP_COLORS.items():
            counts = np.array(groups[name]["histogram"], dtype=float)
            if not counts.sum():
                continue
            label = f"{GROUP_NAMES[name]}: mean {groups[name]['text_share']['mean']:.2f}"
            edges = np.linspace(0, 1, len(counts) + 1)
            axis.stairs(counts / counts.sum(), edges, fill=True, color=color, alpha=0.35)
            axis.stairs(counts / counts.sum(), edges, color=color, linewidth=1.4, label=label)
        axis.set_title(task, pad=34)
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.2)
        axis.set_xlim(0, 1)
        axis.set_xlabel("text share λ")
    axes[0].set_ylabel("share of the products")
    return figure


def learning_curves(variants: Variants, tasks: list[str]) -> Figure:
    """Recall at 90 % precision on validation over all stages, the mean of the seeds; a line ends each stage."""
    figure, axes = _panels(len(tasks), 3.6, 3.2, sharex=True)
    for axis, task in zip(axes, tasks, strict=True):
        for place, (variant, values) in enumerate(variants.items()):
            seen, height, _ = mean_curve(values["stages"], f"{task}/{CURVE_METRIC}")
            color = COLORS[place % len(COLORS)]
            axis.plot(seen, height, "o-", color=color, markersize=2.5, linewidth=1.2, label=name_of(variant))
        longest = max(variants.values(), key=lambda values: len(values["stages"]))
        _mark_stages(axis, mean_curve(longest["stages"], f"{task}/{CURVE_METRIC}")[2])
        axis.set_title(task, pad=16)
        axis.set_xlabel("products seen, thousands")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes[0].set_ylabel("R@P90, validation split")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _mark_stages(axis: Axes, ends: dict[str, float]) -> None:
    start = 0.0
    for stage, end in ends.items():
        axis.axvline(end, color="#999999", linewidth=0.7, linestyle=":")
        middle, high = (start + end) / 2, axis.get_xaxis_transform()
        axis.text(middle, 1.02, stage.replace("_", " "), transform=high, ha="center", va="bottom", fontsize=7)
        start = end


def mean_curve(stages: dict[str, Any], key: str) -> tuple[list[float], list[float], dict[str, float]]:
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
    for stage, values in stages.items():
        curves = [{p["products_seen"]: p.get(key) for p in curve} for curve in values["curves"].values()]
        for products in sorted(set.intersection(*map(set, curves))):
            known = [curve[products] for curve in curves if curve[products] is not None]
            if known:
                seen.append(start + products / 1000)
                height.append(float(np.mean(known)))
        start += max((max(curve, default=0) for curve in curves), default=0) / 1000
        ends[stage] = start
    return seen, height, ends


def confusion(task: str, labels: list[str], counts: np.ndarray) -> Figure:
    """Of each true label (row) the share that was answered with each label, all seeds together."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    is_small = len(labels) <= LABELS_WITH_NUMBERS
    cell = 0.3 if is_small else 0.16
    figure, axis = plt.subplots(figsize=(2.4 + cell * len(labels), 1.6 + cell * len(labels)))
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    size = 8 if is_small else 5
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("answer")
    axis.set_ylabel("true label")
    axis.set_title(f"{task}: % of the true label" if is_small else task)
    if is_small:
        for row, column in zip(*np.nonzero(share >= 0.005), strict=True):
            color = "white" if share[row, column] > 0.5 else "black"
            text = f"{100 * share[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=6)
    figure.colorbar(image, shrink=0.6, label="share of the true label")
    return figure
