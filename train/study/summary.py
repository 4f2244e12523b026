"""The figures of the tables for programs that read them."""

from __future__ import annotations

from train.study.results import Variant, Variants
from train.study.tables import METRICS, tasks_of

STRESSED = "recall_at_90_precision"  # what is told of each perturbation
Figure = tuple[float | None, float | None, int]


def summary(studies: dict[str, Variants]) -> dict[str, dict[str, dict[str, dict[str, Figure]]]]:
    """Data set -> variant -> task -> metric -> mean, standard error (None for one seed) and seeds.

    Metrics are the tables' METRICS on the test split, `stress:PERTURBATION`, STRESSED under it, and
    `stress_drop:PERTURBATION`, what it costs the same products. What is known of no seed is left out.
    """
    return {
        data_set: {
            name: {task: _task(variant, task) for task in tasks_of(variants)} for name, variant in variants.items()
        }
        for data_set, variants in studies.items()
    }


def _task(variant: Variant, task: str) -> dict[str, Figure]:
    paths = {metric: f"test/{task}/{metric}" for metric in METRICS}
    for perturbation in variant.perturbations:
        group = f"irrelevant/{perturbation}/{task}"
        paths[f"stress:{perturbation}"] = f"{group}/{STRESSED}"
        paths[f"stress_drop:{perturbation}"] = f"{group}/drop/{STRESSED}"
    found = {metric: variant[path] for metric, path in paths.items()}
    return {
        metric: (values.mean, values.standard_error, len(values.values))
        for metric, values in found.items()
        if values.values
    }
