"""A rival fitted to a data set, which answers as a network does and by the same rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from model.acceptance import Rule
from model.tasks import Task, TaskSet, has_labels
from train.acceptance import with_acceptance
from train.data import ProductDataset
from train.metrics import task_metrics
from train.predict import Predictions
from train.rivals.features import Features
from train.rivals.logistic import Linear, fit
from train.rivals.products import Products, open_split, read_products
from train.rivals.table import Rival
from train.thresholds import fit_thresholds

# N products, C labels of all tasks, L labels of one task

# Of settings that do equally well on validation the first is taken: what is held back most.
STRENGTHS = (0.3, 1.0, 3.0, 10.0)
TITLE_WEIGHTS = (0.3, 1.0)


class Choice(NamedTuple):
    """What one task was fitted with: scikit-learn's C, how much titles count beside images, and the mean average
    precision on validation that it was chosen by; None where validation has no label.
    """

    strength: float
    title_weight: float
    score: float | None


class FittedRival:
    """Logistic regression for every task.

    Args:
        train, validation: with image features where the rival reads images.
    Attributes:
        tasks: with thresholds, and what is accepted, fitted on validation.
        choices: by task.
    Raises:
        ValueError: a task has no label in `train`, or what the rival reads is nowhere in it.
    """

    def __init__(self, rival: Rival, tasks: TaskSet, train: Products, validation: Products) -> None:
        self.rival, self.features = rival, Features(rival, train)
        self.choices: dict[str, Choice] = {}
        self.linear: dict[str, Linear] = {}
        reads_both = rival.reads_titles and rival.reads_images
        weights = TITLE_WEIGHTS if reads_both else (1.0,)
        total = len(weights) * len(tasks) * len(STRENGTHS)
        with tqdm(total=total, desc=f"fitting {rival.title}", leave=False) as bar:
            for weight in weights:
                self._fit_all(tasks, train, validation, weight, bar)
        said = torch.from_numpy(self.logits(validation, tasks)), torch.from_numpy(validation.targets_NC)
        self.tasks = with_acceptance(*said, fit_thresholds(*said, tasks), Rule())

    @property
    def parameters(self) -> int:
        return sum(part.size for linear in self.linear.values() for part in linear)

    def logits(self, products: Products, tasks: TaskSet) -> np.ndarray:
        """Float32 [N, C]."""
        weights = {choice.title_weight for choice in self.choices.values()}
        columns = {weight: self.features(products, weight) for weight in weights}
        parts = [self.linear[task.name](columns[self.choices[task.name].title_weight]) for task in tasks]
        return np.concatenate(parts, axis=1)

    def __call__(self, dataset: ProductDataset) -> Predictions:
        """Answers for a split; products that cannot be read are named on stderr and count nowhere."""
        return self.answers(read_products(dataset, self.rival.reads_images))

    def answers(self, products: Products) -> Predictions:
        for problem in dict.fromkeys(products.problems):
            print(f"not judged: {problem}", file=sys.stderr)
        share_NK = torch.full((len(products.titles), len(self.tasks)), self.rival.text_share)
        arrays = self.logits(products, self.tasks), products.targets_NC, products.present_N2
        logits_NC, targets_NC, present_N2 = map(torch.from_numpy, arrays)
        return Predictions(logits_NC, share_NK, targets_NC, present_N2, products.problems)

    def remarks(self) -> list[str]:
        """A line for each task: what was chosen."""
        lines = []
        for task, (strength, weight, score) in self.choices.items():
            titles = f", titles weigh {weight:g}" if self.rival.reads_titles and self.rival.reads_images else ""
            found = "no validation product has its label" if score is None else f"mAP {score:.3f} on validation"
            lines.append(f"{task}: C {strength:g}{titles} ({found})")
        return lines

    def _fit_all(self, tasks: TaskSet, train: Products, validation: Products, weight: float, bar: tqdm) -> None:
        """Every task with every strength; the best so far stays."""
        x_NF, validation_NF = self.features(train, weight), self.features(validation, weight)
        targets = zip(tasks.split(train.targets_NC), tasks.split(validation.targets_NC), strict=True)
        for (task, targets_NL), (_, validation_NL) in targets:
            for strength in STRENGTHS:
                linear = fit(task, x_NF, targets_NL, strength)
                score = _average_precision(task, linear(validation_NF), validation_NL)
                best = self.choices.get(task.name)
                if best is None or (score or 0) > (best.score or 0):
                    self.choices[task.name], self.linear[task.name] = Choice(strength, weight, score), linear
                bar.update()


def _average_precision(task: Task, logits_NL: np.ndarray, targets_NL: np.ndarray) -> float | None:
    """Of the products that have a label, whatever is said of other tasks."""
    labelled_N, alone = has_labels(targets_NL), TaskSet([task.model_copy(update={"only_if": None})])
    said = torch.from_numpy(logits_NL[labelled_N]), torch.from_numpy(targets_NL[labelled_N])
    metrics = task_metrics(said[0], torch.zeros(len(said[0]), 1), said[1], alone)
    return metrics[task.name]["mean_average_precision"]


def fit_rival(rival: Rival, data: Path) -> FittedRival:
    """Fit a rival to a data set.

    Raises:
        ValueError: train or validation cannot be read; or as FittedRival.
    """
    splits = [open_split(data, split) for split in ("train", "validation")]
    train, validation = (read_products(split, rival.reads_images) for split in splits)
    return FittedRival(rival, splits[0].tasks, train, validation)
