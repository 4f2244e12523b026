"""Judge a bundle on a split: a table of metrics, tables by label, and every answer in a file.

python -m train.score runs/apa_mini/bundle --data data/apa_mini --split test
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cma_clip.command import command
from cma_clip.files import new_directory
from dataset.format import DatasetInfo
from dataset.splits import SPLITS
from model.bundle import Bundle
from model.tasks import TaskSet
from train.acceptance import remarks
from train.answers import answers_by_task
from train.class_table import write_class_tables
from train.data import IN_ORDER, ProductDataset
from train.metrics import format_table
from train.predict import Predictions, answers_for, loss_and_metrics, open_bundle
from train.report.page import render
from train.wrong_titles import judged_by


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, help="default: score-SPLIT beside the bundle")
    parser.add_argument("--batch_size", type=int, default=128)
    args = parser.parse_args(arguments)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size {args.batch_size}: expected 1 or more")
    output = args.output or args.bundle.parent / f"score-{args.split}"
    bundle = open_bundle(args.bundle, args.data)
    metrics = judge(bundle, args.data, args.split, args.batch_size, output)
    print(f"{args.split} split of {args.data}, {args.bundle}:")
    print(format_table(metrics))
    for remark in remarks(bundle.config.tasks):
        print(f"note: {remark}")
    print(f"report.html, metrics, tables by label and every answer: {output}")


def judge(bundle: Bundle, data: Path, split: str, batch_size: int, output: Path) -> dict[str, Any]:
    """Classify the split, write what came of it into `output`, return the metrics.

    That is `report.html`, `metrics.json`, `predictions.parquet`, `classes-TASK.csv` and, for single-label tasks,
    `confusion-TASK.csv`. What a multi-label task answers is decided by the bundle's thresholds, whatever the
    split. The loss in `metrics.json` knows no class weights, so that bundles compare.

    Raises:
        ValueError: the split cannot be read, or `output` holds something else.
    """
    check_output(output)
    tasks = bundle.config.tasks
    dataset = ProductDataset(data, split, bundle.config.preprocess, bundle.tokenizer, IN_ORDER, tasks)
    answers = answers_for(bundle, judged_by(dataset), batch_size)
    page = partial(render, bundle.config, DatasetInfo.read(data), dataset, answers, split)
    return write_score(output, split, tasks, dataset, answers, remarks(tasks), page)


def write_score(
    output: Path,
    split: str,
    tasks: TaskSet,
    dataset: ProductDataset,
    answers: Predictions,
    notes: list[str],
    page: Callable[[dict[str, Any]], str] | None = None,
) -> dict[str, Any]:
    """What `judge` writes of answers that are there; returns the metrics.

    Args:
        tasks: with the thresholds that multi-label answers are counted by.
        page: the report of these metrics, where there is to be one.
    """
    loss, metrics = loss_and_metrics(answers, tasks)
    with new_directory(output) as folder:
        summary = {"split": split, "loss": loss, "tasks": metrics, "notes": notes}
        (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
        pq.write_table(answer_table(tasks, dataset, answers), folder / "predictions.parquet")
        if page:
            (folder / "report.html").write_text(page(metrics), encoding="utf-8")
        for task_answers in answers_by_task(answers.logits_NC, answers.targets_NC, tasks):
            write_class_tables(folder, task_answers)
    return metrics


def check_output(output: Path) -> None:
    """Replace an earlier judgement only.

    Raises:
        ValueError: something else is there.
    """
    if output.exists() and not (output / "metrics.json").is_file() and any(output.iterdir()):
        raise ValueError(f"--output {output}: holds something else than a score; name another directory")


def answer_table(tasks: TaskSet, dataset: ProductDataset, answers: Predictions) -> pa.Table:
    """One row a product: id, title, and for each task the true label (where there are any), the answer with its score,
    whether it is accepted, and λ, in columns as those of `cma-clip predict`.

    Answers behind those of the split, under wrong titles, are left out.
    """
    answers = answers.of(range(len(dataset)))
    scores = tasks.scores(answers.logits_NC.numpy())
    decoded = tasks.predictions(scores, answers.text_share_NK.numpy(), answers.present_N2.numpy())
    stored = dataset.columns("id", "title", *(task.name for task in tasks if task.is_labelled))
    columns: dict[str, list[Any]] = {name: stored[name] for name in ("id", "title")}
    for task in tasks:
        if task.is_labelled:
            columns[f"{task.name}_true"] = stored[task.name]
        told = [answer[task.name] for answer in decoded]
        columns[f"{task.name}_answer"] = [task.stored(one["labels"]) for one in told]
        columns[f"{task.name}_score"] = [one["scores"] if task.several_labels else one["score"] for one in told]
        columns[f"{task.name}_accepted"] = [one["accepted"] for one in told]
        columns[f"{task.name}_refused"] = [one.get("refused", "") for one in told]
        if any("accepted_labels" in one for one in told):
            columns[f"{task.name}_accepted_labels"] = [one["accepted_labels"] for one in told]
        columns[f"{task.name}_top"] = [json.dumps(one["top"]) for one in told]
        columns[f"{task.name}_text_share"] = [one["text_share"] for one in told]
    return pa.table(columns)


if __name__ == "__main__":
    sys.exit(main())
