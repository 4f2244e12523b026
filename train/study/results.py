"""The results of single runs, and what they say together: means, standard errors, differences."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from cma_clip.settings import StrictModel, read_json
from model.networks import NETWORKS
from train.rivals.table import RIVALS

REFERENCE = "full"
# How tables and plots name a variant, in their order; others follow under their own names.
NAMES = {
    "full": "full",
    "no_mwa": "without MWA",
    "no_mwa_no_swa": "without MWA and SWA",
} | {name: row.title for name, row in (NETWORKS | RIVALS).items() if name != "cma_clip"}
COUNTS = ("products", "left_out")
Numbers = dict[str, int | float | None]


class Measured(StrictModel):
    """Other keys are not read."""

    model_config = ConfigDict(extra="ignore")


class Judged(Measured):
    """Some of a task's answers; text_share is the mean λ."""

    products: int
    text_share: float | None
    accuracy: float | None
    recall_at_90_precision: float | None


class NamingGroup(Judged):
    """Products whose titles do, or do not, name the label; see train.study.measure.by_naming."""

    histogram: list[int]


class NamingGroups(Measured):
    named: NamingGroup
    not_named: NamingGroup


class Irrelevant(Judged):
    """One task under one perturbation; see train.study.irrelevant.suite."""

    left_out: int
    micro_f1: float | None
    untouched: Numbers


class ToldApart(Measured):
    """What `mismatch` tells of exchanged pairs; see train.study.wrong_pairs.told_apart."""

    products: int
    auroc: float | None
    told: float
    false_alarms: float


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
    test: dict[str, Numbers] = {}


class Origin(Measured):
    """Where figures come from."""

    commit: str | None
    hardware: str | dict[str, Any]
    versions: dict[str, str]


class RunResult(Origin):
    """The content of a run's `result.json`.

    deterministic: chance has no part in it, so one run stands for every seed; it has no stages.
    measured_again: of `python -m train.study --measure-again`, where that was done; the rest tells of the training.
    """

    data_set: str
    variant: str
    seed: int
    deterministic: bool = False
    measured_again: Origin | None = None
    minutes: float
    parameters: int
    stages: dict[str, StageResult]
    test: dict[str, Numbers]
    irrelevant: dict[str, dict[str, Irrelevant]]
    mismatch: dict[str, ToldApart] = {}
    named: dict[str, NamingGroups]
    confusion: dict[str, Confusion]

    def figures(self) -> Numbers:
        """Each number by its path, such as `test/color/accuracy`, and the differences within the run.

        They are `tuning/TASK/...`: what this stage gains; `named/TASK/difference/...`: named less not_named;
        `irrelevant/PERTURBATION/TASK/drop/...`: untouched less perturbed, and `change`: the reverse.
        """
        parts = {"minutes", "parameters", "stages", "test", "named", "irrelevant", "mismatch"}
        figures = flat(self.model_dump(include=parts))
        differences = [("tuning", "stages/tuning/test", "stages/end_to_end/test")]
        for group in (f"named/{task}" for task in self.named):
            differences.append((f"{group}/difference", f"{group}/named", f"{group}/not_named"))
        for group in (f"irrelevant/{name}/{task}" for name, tasks in self.irrelevant.items() for task in tasks):
            differences += [
                (f"{group}/drop", f"{group}/untouched", group),
                (f"{group}/change", group, f"{group}/untouched"),
            ]
        for name, left, right in differences:
            figures |= flat(subtract(below(figures, left), below(figures, right)), f"{name}/")
        return figures


def flat(tree: Mapping[str, Any], prefix: str = "") -> Numbers:
    """The numbers of nested dictionaries by their path; lists are left out."""
    numbers: Numbers = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{prefix}{key}/")
        elif not isinstance(value, list):
            numbers[prefix + key] = value
    return numbers


def below(figures: Numbers, prefix: str) -> Numbers:
    return {path.removeprefix(f"{prefix}/"): value for path, value in figures.items() if path.startswith(f"{prefix}/")}


def subtract(left: Numbers, right: Numbers) -> Numbers:
    """left - right of what both hold; counts are left out, and what is unknown stays unknown."""
    shared = [path for path in left if path in right and path.rpartition("/")[2] not in COUNTS]
    pairs = {path: (left[path], right[path]) for path in shared}
    return {path: None if a is None or b is None else a - b for path, (a, b) in pairs.items()}


class Summary:
    """One number of several runs.

    Args:
        values: by seed; unknown ones do not count.
    Attributes:
        mean: None where none is known.
        standard_error: of the mean; None for a single seed, and where a number is not finite, of a run that diverged.
    """

    def __init__(self, values: Mapping[int, float | None]) -> None:
        self.values = {seed: value for seed, value in values.items() if value is not None}
        numbers, n = list(self.values.values()), len(self.values)
        self.mean = statistics.fmean(numbers) if n else None
        has_error = n > 1 and all(map(math.isfinite, numbers))
        self.standard_error = statistics.stdev(numbers) / math.sqrt(n) if has_error else None

    def text(self, signed: bool = False, digits: int = 3) -> str:
        """As `0.956 ± 0.004`; n/a where it is not known."""
        if self.mean is None:
            return "n/a"
        mean = f"{self.mean:{'+' if signed else ''}z.{digits}f}"  # z: no minus before zero
        return mean if self.standard_error is None else f"{mean} ± {self.standard_error:.{digits}f}"


class Variant:
    """What the runs of one variant say together.

    Args:
        runs: one a seed.
        reference: the runs that this variant is compared with, seed by seed; a deterministic one with each of them.
    Attributes:
        title: its name in tables and plots.
        figures: as RunResult's, and `drop/TASK/METRIC`: what the reference is better by.
    """

    def __init__(self, runs: list[RunResult], reference: list[RunResult]) -> None:
        self.runs = sorted(runs, key=lambda run: run.seed)
        self.title = NAMES.get(runs[0].variant, runs[0].variant.replace("_", " "))
        better = {run.seed: flat(run.test) for run in reference}
        values: dict[str, dict[int, float | None]] = {}
        for run in self.runs:
            drops = {
                seed: flat(subtract(theirs, flat(run.test)), "drop/")
                for seed, theirs in better.items()
                if run.deterministic or seed == run.seed
            }
            for seed, figures in [(run.seed, run.figures()), *drops.items()]:
                for path, value in figures.items():
                    values.setdefault(path, {})[seed] = value
        self.figures = {path: Summary(by_seed) for path, by_seed in values.items()}

    def __getitem__(self, path: str) -> Summary:
        return self.figures.get(path, Summary({}))

    def holds(self, prefix: str) -> bool:
        return any(path.startswith(f"{prefix}/") for path in self.figures)

    @property
    def perturbations(self) -> list[str]:
        """Those that any of its runs was measured with; an older result may lack some."""
        return list(dict.fromkeys(name for run in self.runs for name in run.irrelevant))

    @property
    def exchanges(self) -> list[str]:
        """Those that `mismatch` was judged by, if any of its runs has it."""
        return list(dict.fromkeys(name for run in self.runs for name in run.mismatch))


Variants = dict[str, Variant]


def aggregate(results: list[RunResult]) -> dict[str, Variants]:
    """Data set -> variant -> what its runs say together; all but REFERENCE are compared with it."""
    order = [*NAMES, *sorted({result.variant for result in results} - NAMES.keys())]
    studies: dict[str, Variants] = {}
    for data_set in sorted({result.data_set for result in results}):
        runs = {name: [run for run in results if (run.data_set, run.variant) == (data_set, name)] for name in order}
        better = {name: runs[REFERENCE] if name != REFERENCE else [] for name in order}
        studies[data_set] = {name: Variant(runs[name], better[name]) for name in order if runs[name]}
    return studies


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
