"""A bundle with its answers to a split, so that it can be reported and held against another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dataset.format import DatasetInfo
from model.bundle import Bundle
from train.answers import Answers, answers_by_task
from train.data import IN_ORDER, ProductDataset
from train.predict import Predictions, answers_for, loss_and_metrics, open_bundle
from train.report.before import Before
from train.report.page import render
from train.wrong_titles import judged_by


class Judged(NamedTuple):
    """answers: of the split, and behind them those under wrong titles where the bundle tells mismatches."""

    bundle: Bundle
    dataset: ProductDataset
    answers: Predictions

    def by_task(self) -> list[Answers]:
        """Of the split alone."""
        own = self.answers.of(range(len(self.dataset)))
        return list(answers_by_task(own.logits_NC, own.targets_NC, self.bundle.config.tasks))

    def report(
        self,
        info: DatasetInfo,
        split: str,
        perturbations: Mapping[str, Mapping[str, Any]] | None = None,
        before: Before | None = None,
    ) -> str:
        """The page, as train.report.page.render."""
        config = self.bundle.config
        _, metrics = loss_and_metrics(self.answers, config.tasks)
        return render(config, info, self.dataset, self.answers, split, metrics, perturbations, before)


def judge(bundle: Path, data: Path, split: str, batch_size: int) -> Judged:
    """Load a bundle and classify a split.

    Raises:
        ValueError: a file does not fit, or the data set has other tasks or labels.
    """
    opened = open_bundle(bundle, data)
    config = opened.config
    dataset = ProductDataset(data, split, config.preprocess, opened.tokenizer, IN_ORDER, config.tasks)
    return Judged(opened, dataset, answers_for(opened, judged_by(dataset), batch_size))
