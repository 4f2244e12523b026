"""How much answers suffer from a title or an image that says nothing, lies or is damaged, and whether λ gives way.

python -m train.study.irrelevant runs/apa_mini/bundle --data data/apa_mini
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cma_clip.command import command
from cma_clip.files import write_atomically
from cma_clip.tables import aligned
from dataset.splits import SPLITS
from model.tasks import TaskSet
from train.data import ProductDataset
from train.metrics import task_metrics
from train.predict import Predictions, answers_for, open_bundle
from train.study.perturbed import PERTURBATIONS, NoDonors, PerturbedDataset
from train.study.wrong_pairs import format_pairs, told_apart

Answer = Callable[[ProductDataset], Predictions]

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
    results = suite(answer, dataset.tasks, dataset, answer(dataset))
    output.mkdir(parents=True, exist_ok=True)
    summary = {"split": args.split, "perturbations": results.perturbations} | results.told
    write_atomically(output / "irrelevant.json", json.dumps(summary, indent=2) + "\n")
    print(f"{args.split} split of {args.data}, {args.bundle}:")
    print(format_suite(results.perturbations))
    if results.mismatch:
        print(format_pairs(results.mismatch))
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


class Suite(NamedTuple):
    """What the suite finds.

    perturbations: perturbation -> task -> products, left_out (see PerturbedDataset), METRICS, and under `untouched`
        METRICS of the same products as they are. Recall at 90 % precision is at the threshold that fits the
        perturbed answers.
    mismatch: exchange -> train.study.wrong_pairs.told_apart; empty where nothing tells.
    """

    perturbations: dict[str, dict[str, Any]]
    mismatch: dict[str, dict[str, Any]]

    @property
    def told(self) -> dict[str, Any]:
        """`mismatch` under its name in a file, where something tells."""
        return {"mismatch": self.mismatch} if self.mismatch else {}


def suite(answer: Answer, tasks: TaskSet, dataset: ProductDataset, untouched: Predictions) -> Suite:
    """Every perturbation of a split against the split as it is; each is classified once.

    A perturbation for which no product has a donor is left out, and stderr says so.

    Args:
        tasks: with the thresholds of what answers, in the order of its answers.
        untouched: the answers for `dataset`.
    Raises:
        ValueError: no product has both a title and an image.
    """
    results = Suite({}, {})
    for name in PERTURBATIONS:
        try:
            changed = PerturbedDataset(dataset, name)
        except NoDonors as reason:
            print(f"left out: {reason}", file=sys.stderr)
            continue
        before, after = untouched.of(changed.products), answer(changed)
        results.perturbations[name] = compare(before, after, tasks, changed.left_out)
        if changed.is_exchange and (told := told_apart(before, after, tasks)):
            results.mismatch[name] = told
    return results


def compare(before: Predictions, after: Predictions, tasks: TaskSet, left_out: int) -> dict[str, dict[str, Any]]:
    """One perturbation, from the answers for the same products; see Suite.perturbations."""
    before, after, tasks = before.labelled(tasks), after.labelled(tasks), tasks.labelled
    # What is missing is below every label: a product counts where it could be read both times, and has a label at all.
    targets_NC = torch.minimum(before.targets_NC, after.targets_NC)
    counted_N = (targets_NC >= 0).any(dim=1)
    old, new = (
        task_metrics(a.logits_NC[counted_N], a.text_share_NK[counted_N], targets_NC[counted_N], tasks)
        for a in (before, after)
    )
    return {
        task: {
            **{name: values[name] for name in ("products", *METRICS)},
            "left_out": left_out,
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
