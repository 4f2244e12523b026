"""The results of single runs, and what they say together: means, standard errors, differences."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict

from cma_clip.settings import StrictModel, read_json
from model.networks import NETWORKS

REFERENCE = "full"
# How tables and plots name a variant, in their order; others follow under their own names.
NAMES = {
    "full": "full",
    "no_mwa": "without MWA",
    "no_mwa_no_swa": "without MWA and SWA",
} | {name: row.title for name, row in NETWORKS.items() if name != "cma_clip"}
COUNTS = ("products", "left_out")
Values = dict[str, int | float | None]


class Measured(StrictModel):
    """Other keys are not read."""

    model_config = ConfigDict(extra="ignore")


class NamingGroup(Measured):
    """Products whose titles do, or do not, name the label; see train.study.measure.by_naming."""

    products: int
    text_share: float | None
    histogram: list[int]
    accuracy: float | None
    recall_at_90_precision: float | None


class NamingGroups(Measured):
    """One task's products, apart."""

    named: NamingGroup
    not_named: NamingGroup


class Irrelevant(Measured):
    """One task under one perturbation; see train.study.irrelevant.suite."""

    products: int
    left_out: int
    accuracy: float | None
    recall_at_90_precision: float | None
    micro_f1: float | None
    text_share: float | None
    untouched: Values


class Confusion(Measured):
    """counts[true label][answer]."""

    labels: list[str]
    counts: list[list[int]]


class Point(StrictModel):
    """One validation; beside these it holds `TASK/METRIC`. products_seen counts from the stage's start."""

    model_config = ConfigDict(extra="allow")

    products_seen: int


class StageResult(Measured):
    """One stage. `epoch` is the best; `test`: task -> metrics of the best, where the stage was judged."""

    epoch: int
    validation_loss: float
    minutes: float
    curve: list[Point] = []
    test: dict[str, Values] = {}


class RunResult(Measured):
    """The content of a run's `result.json`."""

    data_set: str
    variant: str
    seed: int
    commit: str | None
    minutes: float
    hardware: str | dict[str, Any]
    versions: dict[str, str]
    parameters: int
    stages: dict[str, StageResult]
    test: dict[str, Values]
    irrelevant: dict[str, dict[str, Irrelevant]]
    named: dict[str, NamingGroups]
    confusion: dict[str, Confusion]


def read_results(study: Path) -> list[RunResult]:
    """All results under `STUDY/DATA SET/VARIANT/seedN/result.json`; a run without one is named on stderr.

    Raises:
        ValueError: there is none, or one is broken or lies in the directory of another run.
    """
    results = []
    for directory in sorted(study.glob("*/*/seed*")):
        path = directory / "result.json"
        if not path.exists():
            print(f"not counted, as it has not finished: {directory}", file=sys.stderr)
            continue
        result = read_json(RunResult, path)
        expected = Path(result.data_set, result.variant, f"seed{result.seed}")
        if directory.relative_to(study) != expected:
            raise ValueError(f"{path}: is the result of {expected}; put it back, or remove it")
        results.append(result)
        _check_tasks(path, result, next(other for other in results if other.data_set == result.data_set))
    if not results:
        raise ValueError(f"{study}: no result (DATA SET/VARIANT/seedN/result.json); run python -m train.study first")
    return results


def _check_tasks(path: Path, result: RunResult, first: RunResult) -> None:
    """Runs of one data set must have answered the same tasks and labels."""
    ours, theirs = ({task: part.labels for task, part in run.confusion.items()} for run in (result, first))
    if ours != theirs or not list(result.test) == list(first.test) == list(result.named):
        raise ValueError(f"{path}: other tasks or labels than {first.variant}/seed{first.seed}; run it again")


def aggregate(results: list[RunResult]) -> dict[str, dict[str, Any]]:
    """Data set -> variant -> what its runs say together; numbers are as `summary`.

    Each variant has seeds, commits, hardware, versions, minutes, parameters; test: task -> metric; drop: what
    REFERENCE is better by, paired by seed; stages: stage -> epoch, validation_loss, minutes, test, curves; tuning:
    what this stage gains, paired; named: task -> named, not_named and difference, with added histograms; irrelevant:
    perturbation -> task -> metrics, untouched and drop; confusion: added counts.
    """
    studies: dict[str, dict[str, list[RunResult]]] = {}
    for result in results:
        studies.setdefault(result.data_set, {}).setdefault(result.variant, []).append(result)
    return {
        data_set: {
            variant: _aggregate_variant(variants[variant], variants.get(REFERENCE, []))
            for variant in sorted(variants, key=_place)
        }
        for data_set, variants in sorted(studies.items())
    }


def _place(variant: str) -> tuple[int, str]:
    names = list(NAMES)
    return (names.index(variant) if variant in names else len(names), variant)


def _aggregate_variant(runs: list[RunResult], reference: list[RunResult]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: run.seed)
    tests, better = ({str(run.seed): run.test for run in group} for group in (runs, reference))
    is_reference = runs[0].variant == REFERENCE
    drops = {} if is_reference else {seed: subtract(better[seed], tests[seed]) for seed in tests if seed in better}
    return {
        "seeds": [run.seed for run in runs],
        "commits": _distinct([run.commit for run in runs]),
        "hardware": _distinct([run.hardware for run in runs]),
        "versions": _distinct([run.versions for run in runs]),
        "minutes": summary({str(run.seed): run.minutes for run in runs}),
        "parameters": summary({str(run.seed): run.parameters for run in runs}),
        "test": merge(tests),
        "drop": merge(drops),
        "stages": _stages(runs),
        "tuning": merge({str(run.seed): _tuning(run) for run in runs}),
        "named": merge({str(run.seed): _named(run) for run in runs}),
        "irrelevant": merge({str(run.seed): _irrelevant(run) for run in runs}),
        "confusion": _confusion(runs),
    }


def _distinct(values: list[Any]) -> list[Any]:
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _stages(runs: list[RunResult]) -> dict[str, dict[str, Any]]:
    result = {}
    for stage in dict.fromkeys(stage for run in runs for stage in run.stages):
        parts = {str(run.seed): run.stages[stage] for run in runs if stage in run.stages}
        trees = {seed: part.model_dump(exclude={"curve"}) for seed, part in parts.items()}
        result[stage] = merge(trees) | {
            "curves": {seed: [point.model_dump() for point in part.curve] for seed, part in parts.items()}
        }
    return result


def _tuning(run: RunResult) -> dict[str, Any]:
    before, after = (run.stages[stage].test if stage in run.stages else {} for stage in ("end_to_end", "tuning"))
    return subtract(after, before)


def _named(run: RunResult) -> dict[str, Any]:
    groups = {task: named.model_dump() for task, named in run.named.items()}
    return {task: both | {"difference": subtract(both["named"], both["not_named"])} for task, both in groups.items()}


def _irrelevant(run: RunResult) -> dict[str, Any]:
    return {
        perturbation: {
            task: values.model_dump() | {"drop": subtract(values.untouched, values.model_dump())}
            for task, values in tasks.items()
        }
        for perturbation, tasks in run.irrelevant.items()
    }


def _confusion(runs: list[RunResult]) -> dict[str, dict[str, Any]]:
    first = runs[0].confusion
    added = {task: np.sum([run.confusion[task].counts for run in runs], axis=0).tolist() for task in first}
    return {task: {"labels": first[task].labels, "counts": counts} for task, counts in added.items()}


def summary(values: Mapping[str, float | None]) -> dict[str, Any]:
    """Mean, its standard error (None for a single seed), n, and the values by seed; unknown ones do not count."""
    known = {seed: value for seed, value in values.items() if value is not None}
    numbers = list(known.values())
    return {
        "mean": statistics.fmean(numbers) if numbers else None,
        "standard_error": statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None,
        "n": len(numbers),
        "values": known,
    }


def merge(trees: Mapping[str, Any]) -> Any:
    """One tree of summaries from a tree of numbers a seed; lists of counts are added up."""
    kinds = list(trees.values())
    if not kinds or isinstance(kinds[0], dict):
        keys = dict.fromkeys(key for tree in kinds for key in tree)
        return {key: merge({seed: tree[key] for seed, tree in trees.items() if key in tree}) for key in keys}
    if isinstance(kinds[0], list):
        return np.sum(kinds, axis=0).tolist()
    return summary(trees)


def subtract(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """left - right, number by number, of what both hold; counts are left out, and what is unknown stays unknown."""
    result: dict[str, Any] = {}
    for key in left:
        if key not in right or key in COUNTS or isinstance(left[key], list):
            continue
        ours, theirs = left[key], right[key]
        if isinstance(ours, dict):
            result[key] = subtract(ours, theirs)
        else:
            result[key] = None if ours is None or theirs is None else ours - theirs
    return result
