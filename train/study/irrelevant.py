"""How much answers suffer from a title or an image that says nothing, lies or is damaged, and whether λ gives way.

python -m train.study.irrelevant runs/apa_mini/bundle --data data/apa_mini
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cma_clip.command import command
from cma_clip.files import write_atomically
from cma_clip.tables import aligned
from dataset.splits import SPLITS
from model.tasks import MISSING, TaskSet
from train.data import ProductDataset
from train.metrics import task_metrics
from train.predict import Predictions, answers_for, open_bundle
from train.study.perturbed import PERTURBATIONS, NoDonors, PerturbedDataset
from train.study.wrong_pairs import Answer, format_pairs, wrong_pairs

BATCH_SIZE = 128
METRICS = ("accuracy", "recall_at_90_precision", "micro_f1", "text_share")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, help="default: irrelevant-SPLIT beside the bundle")
    args = parser.parse_args(arguments)
    output = args.output or args.bundle.parent / f"irrelevant-{args.split}"
    answer, dataset = open_answers(args.bundle, args.data, args.split)
    labelled = of_labelled(answer)
    results = suite(labelled, dataset.tasks.labelled, dataset, labelled(dataset))
    told = wrong_pairs(answer, dataset)
    output.mkdir(parents=True, exist_ok=True)
    summary = {"split": args.split, "perturbations": results} | ({"mismatch": told} if told else {})
    write_atomically(output / "irrelevant.json", json.dumps(summary, indent=2) + "\n")
    print(f"{args.split} split of {args.data}, {args.bundle}:")
    print(format_suite(results))
    if told:
        print(format_pairs(told))
    print(f"as JSON: {output / 'irrelevant.json'}")


def open_answers(bundle_dir: Path, data: Path, split: str) -> tuple[Answer, ProductDataset]:
    """What classifies a split as a bundle does, and the split, whose tasks are the bundle's.

    Raises:
        ValueError: bundle or data set cannot be read, or do not fit each other.
    """
    bundle = open_bundle(bundle_dir, data)
    config = bundle.config
    dataset = ProductDataset(data, split, config.preprocess, bundle.tokenizer, tasks=config.tasks)
    return partial(answers_for, bundle, batch_size=BATCH_SIZE), dataset


def of_labelled(answer: Answer) -> Answer:
    """The same, of the tasks that data sets have labels of."""
    return lambda split: answer(split).labelled(split.tasks)


def suite(answer: Answer, tasks: TaskSet, dataset: ProductDataset, untouched: Predictions) -> dict[str, dict[str, Any]]:
    """Every perturbation of a split against the split as it is.

    Args:
        tasks: with the thresholds of what answers.
        untouched: the answers for `dataset`.
    Returns:
        perturbation -> task -> products, left_out (see PerturbedDataset), METRICS, and under `untouched` METRICS of
        the same products as they are. Recall at 90 % precision is at the threshold that fits the perturbed answers.
        A perturbation for which no product has a donor is left out, and stderr says so.
    Raises:
        ValueError: no product has both a title and an image.
    """
    results = {}
    for name in PERTURBATIONS:
        try:
            results[name] = compare(answer, tasks, PerturbedDataset(dataset, name), untouched)
        except NoDonors as reason:
            print(f"left out: {reason}", file=sys.stderr)
    return results


def compare(
    answer: Answer, tasks: TaskSet, dataset: PerturbedDataset, untouched: Predictions
) -> dict[str, dict[str, Any]]:
    """One perturbation; the result's form is that of `suite`."""
    before, after = untouched.of(dataset.products), answer(dataset)
    # MISSING is below every label: a product counts where it could be read both times, and has a label at all.
    targets_NC = torch.minimum(before.targets_NC, after.targets_NC)
    counted_N = (targets_NC != MISSING).any(dim=1)
    old, new = (
        task_metrics(a.logits_NC[counted_N], a.text_share_NK[counted_N], targets_NC[counted_N], tasks)
        for a in (before, after)
    )
    return {
        task: {
            **{name: values[name] for name in ("products", *METRICS)},
            "left_out": dataset.left_out,
            "untouched": {name: old[task][name] for name in METRICS},
        }
        for task, values in new.items()
    }


def format_suite(results: dict[str, dict[str, Any]]) -> str:
    """The suite as a table for people: how far accuracy and R@P90 fall, and where λ goes."""
    lines = [["irrelevant", "task", "products", "accuracy", "drop", "R@P90", "drop", "text share λ", "change"]]
    for perturbation, tasks in results.items():
        for task, values in tasks.items():
            cells = [perturbation, task, str(values["products"])]
            for metric, sign in (("accuracy", -1), ("recall_at_90_precision", -1), ("text_share", 1)):
                now, before = values[metric], values["untouched"][metric]
                cells += ["n/a", "n/a"] if now is None else [f"{now:.4f}", f"{sign * (now - before):+.4f}"]
            lines.append(cells)
    return aligned(lines)


if __name__ == "__main__":
    sys.exit(main())
