"""Fit what needs no network to a data set, and judge it as train.score judges a bundle.

python -m train.rivals --data data/apa_mini --output runs/rivals

Its figures are what a network has to be better than: TF-IDF of the titles, features of the images, and both, each under
logistic regression, by scikit-learn. Minutes on one core for 20,000 products.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from dataset.splits import SPLITS
from train.acceptance import remarks
from train.metrics import format_table
from train.rivals.products import open_split, read_products
from train.rivals.rival import FittedRival
from train.rivals.table import RIVALS
from train.score import check_output, write_score


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    outputs = {name: args.output / name for name in args.rivals}
    for output in outputs.values():
        check_output(output)
    names = ("train", "validation", args.split)
    splits = {name: open_split(args.data, name) for name in names}
    with_images = any(RIVALS[name].reads_images for name in outputs)
    products = {name: read_products(split, with_images) for name, split in splits.items()}
    for name, output in outputs.items():
        fitted = FittedRival(RIVALS[name], splits["train"].tasks, products["train"], products["validation"])
        answers, notes = fitted.answers(products[args.split]), [*fitted.remarks(), *remarks(fitted.tasks)]
        metrics = write_score(output, args.split, fitted.tasks, splits[args.split], answers, notes)
        print(f"{args.split} split of {args.data}, {RIVALS[name].title}:")
        print(format_table(metrics))
        for note in notes:
            print(f"note: {note}")
    print(f"metrics, tables by label and every answer: {args.output}/{{{','.join(outputs)}}}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--output", type=Path, required=True, help="a directory in it for each rival")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS), help="all, if not given")
    parser.add_argument("--split", choices=SPLITS, default="test")
    return parser


if __name__ == "__main__":
    sys.exit(main())
