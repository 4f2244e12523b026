"""All that the study wants to know of a trained bundle, or of what else answers, measured on one split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dataset.format import DatasetInfo
from model.tasks import TaskSet, has_labels
from train.answers import answers_by_task
from train.class_table import confusion_matrix
from train.data import ProductDataset
from train.metrics import task_metrics
from train.predict import Predictions
from train.study import irrelevant
from train.study.naming import Naming

BINS = 20
GROUPS = {"named": True, "not_named": False}


def measure(bundle_dir: Path, data: Path, *, suite: bool = True) -> dict[str, Any]:
    """Judge a bundle on the test split; see `measured`.

    Raises:
        ValueError: bundle or data set cannot be read, or do not fit each other.
    """
    answer, dataset = irrelevant.open_answers(bundle_dir, data, "test")
    return measured(answer, dataset.tasks, dataset, DatasetInfo.read(data), suite=suite)


def measured(
    answer: irrelevant.Answer, tasks: TaskSet, dataset: ProductDataset, info: DatasetInfo, *, suite: bool = True
) -> dict[str, Any]:
    """Judge answers for a split, ready for JSON.

    Args:
        tasks: with the thresholds of what answers, in the order of its answers.
        suite: False leaves the irrelevant-modality suite out, which classifies the split once a perturbation.
    Returns:
        test: task -> metrics, as train.metrics.task_metrics. named: see `by_naming`. confusion: see
        `confusion_matrices`. irrelevant and, where a task tells, mismatch: see train.study.irrelevant.Suite.
    """
    untouched = answer(dataset)
    answers, labelled = untouched.labelled(tasks), tasks.labelled
    result = {
        "test": task_metrics(*answers[:3], labelled),
        "named": by_naming(answers, dataset, info, labelled),
        "confusion": confusion_matrices(answers, labelled),
    }
    if not suite:
        return result
    found = irrelevant.suite(answer, tasks, dataset, untouched)
    return result | {"irrelevant": found.perturbations} | found.told


def by_naming(
    answers: Predictions, dataset: ProductDataset, info: DatasetInfo, tasks: TaskSet
) -> dict[str, dict[str, dict[str, Any]]]:
    """Each task's answers, apart for titles that name the product's label and titles that do not.

    Products with title, image and label count, as λ is a choice only there.

    Returns:
        task -> `named` or `not_named` -> products, text_share (mean λ), histogram (products whose λ falls into
        each of BINS equal parts of 0..1), accuracy, recall_at_90_precision.
    """
    naming, has_both_N = Naming(info), answers.present_N2.all(dim=1)
    products = map(dataset.product, range(len(dataset)))
    named_NK = [[naming.names_label(product, task) for task in tasks] for product in products]
    result = {}
    for k, (task, targets_NL) in enumerate(tasks.split(answers.targets_NC)):
        readable = (has_both_N & has_labels(targets_NL)).nonzero()[:, 0].tolist()
        groups = {name: [n for n in readable if named_NK[n][k] is value] for name, value in GROUPS.items()}
        result[task.name] = {name: _group(answers.of(group), tasks, k) for name, group in groups.items()}
    return result


def _group(answers: Predictions, tasks: TaskSet, k: int) -> dict[str, Any]:
    metrics = task_metrics(*answers[:3], tasks)[tasks[k].name]
    counts, _ = np.histogram(answers.text_share_NK[:, k].numpy(), bins=BINS, range=(0.0, 1.0))
    chosen = {name: metrics[name] for name in ("products", "text_share", "accuracy", "recall_at_90_precision")}
    return {**chosen, "histogram": counts.tolist()}


def confusion_matrices(answers: Predictions, tasks: TaskSet) -> dict[str, dict[str, Any]]:
    """Per task of one label a product: labels, and counts[true label][answer]."""
    return {
        part.task.name: {"labels": part.task.labels, "counts": confusion_matrix(part)}
        for part in answers_by_task(answers.logits_NC, answers.targets_NC, tasks)
        if not part.task.several_labels
    }
