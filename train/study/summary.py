"""The figures of the tables for programs that read them."""

from __future__ import annotations

from model.tasks import MISMATCH
from train.study.results import Variant, Variants
from train.study.tables import METRICS, TOLD, tasks_of

STRESSED = "recall_at_90_precision"  # what is told of each perturbation
Figure = tuple[float | None, float | None, int]


def summary(studies: dict[str, Variants]) -> dict[str, dict[str, dict[str, dict[str, Figure]]]]:
    """Data set -> variant -> task -> metric -> mean, standard error (None for one seed) and seeds.

    Metrics are the tables' METRICS on the test split, `stress:PERTURBATION`, STRESSED under it, and
    `stress_drop:PERTURBATION`, what it costs the same products. `mismatch` is one more task of a variant that has it,
    with a figure of TOLD each under `FIGURE:EXCHANGE`. What is known of no seed is left out.
    """
    return {
        data_set: {
            name: {task: _task(variant, task) for task in tasks_of(variants)} | _mismatch(variant)
            for name, variant in variants.items()
        }
        for data_set, variants in studies.items()
    }


def _task(variant: Variant, task: str) -> dict[str, Figure]:
    paths = {metric: f"test/{task}/{metric}" for metric in METRICS}
    for perturbation in variant.perturbations:
        group = f"irrelevant/{perturbation}/{task}"
        paths[f"stress:{perturbation}"] = f"{group}/{STRESSED}"
        paths[f"stress_drop:{perturbation}"] = f"{group}/drop/{STRESSED}"
    return _known(variant, paths)


def _mismatch(variant: Variant) -> dict[str, dict[str, Figure]]:
    paths = {f"{figure}:{name}": f"mismatch/{name}/{figure}" for name in variant.exchanges for figure in TOLD}
    return {MISMATCH: _known(variant, paths)} if paths else {}


def _known(variant: Variant, paths: dict[str, str]) -> dict[str, Figure]:
    found = {metric: variant[path] for metric, path in paths.items()}
    return {
        metric: (values.mean, values.standard_error, len(values.values))
        for metric, values in found.items()
        if values.values
    }
