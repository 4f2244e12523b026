"""Which labels are wrong? Each product is judged by a model of the others; what it hardly believes is listed.

python -m train.audit --data data/apa_mini --output runs/audit --relabel data/apa_mini_relabelled

The model is that of the rivals, logistic regression over titles and images: in five folds of the train split, and one
of all of it for the other splits. How many labels are wrong is found by confident learning (cleanlab). `--relabel` and
`--drop` write the data set again with other labels in its train split.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cma_clip.command import command
from cma_clip.files import new_directory
from dataset.format import DatasetInfo
from dataset.products import neutral
from model.tasks import Task, TaskSet
from train.audit.cleaned import check_place, write_cleaned
from train.audit.doubts import Doubt, find_doubts
from train.audit.out_of_fold import out_of_fold
from train.data import ProductDataset
from train.rivals.products import Products, open_split, read_products

PAIRS_SHOWN = 3
COLUMNS = ("split", "id", "title", "given", "likely", "belief")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    check_output(args.output)
    if place := args.relabel or args.drop:
        check_place(place, args.data)
    info = DatasetInfo.read(args.data)
    tasks = info.tasks
    splits: dict[str, ProductDataset] = {name: open_split(args.data, name) for name in info.splits}
    products = [read_products(split, with_images=True) for split in splits.values()]
    doubts = doubts_by_task(tasks, products, out_of_fold(tasks, products[0], products[1:]))
    write_lists(args.output, splits, doubts)
    for task in tasks:
        print(summary(task, doubts[task.name], sum(map(len, splits.values()))))
    print(f"the least believed labels first, and which are taken for which: {args.output}")
    for how in ("drop", "relabel"):
        if output := getattr(args, how):
            write_cleaned(output, args.data, splits, doubts, how)


def doubts_by_task(tasks: TaskSet, splits: Sequence[Products], scores: Sequence[np.ndarray]) -> dict[str, list[Doubt]]:
    """The doubts of each task, the least believed first; how many there are is found split by split, as one may have
    been labelled with more care. Products are counted through all splits.
    """
    doubts: dict[str, list[Doubt]] = {task.name: [] for task in tasks}
    start = 0
    for split, scores_NC in zip(splits, scores, strict=True):
        for (task, scores_NL), (_, targets_NL) in zip(
            tasks.split(scores_NC), tasks.split(split.targets_NC), strict=True
        ):
            found = find_doubts(task, scores_NL, targets_NL)
            doubts[task.name] += [doubt._replace(product=start + doubt.product) for doubt in found]
        start += len(split.titles)
    return {name: sorted(of_task, key=lambda doubt: doubt.belief) for name, of_task in doubts.items()}


def write_lists(output: Path, splits: Mapping[str, ProductDataset], doubts: Mapping[str, Sequence[Doubt]]) -> None:
    """For each task `doubts-TASK.csv`, a line a label, and `confused-TASK.csv`, a line a pair of labels."""
    stored = {name: split.columns("id", "title") for name, split in splits.items()}
    lines = [
        (name, id, title)
        for name, columns in stored.items()
        for id, title in zip(columns["id"], columns["title"], strict=True)
    ]
    with new_directory(output) as folder:
        for task, of_task in doubts.items():
            rows = ((*lines[d.product], d.given or "", d.likely or "", f"{d.belief:.6f}") for d in of_task)
            _write(folder / f"doubts-{task}.csv", COLUMNS, rows)
            _write(folder / f"confused-{task}.csv", ("given", "likely", "products"), confused(of_task))


def confused(doubts: Iterable[Doubt]) -> list[tuple[str, str, int]]:
    """Given label, likely label and how often they were taken for each other so, the most frequent first."""
    pairs = Counter((doubt.given or "", doubt.likely or "") for doubt in doubts)
    return [(*pair, count) for pair, count in sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))]


def summary(task: Task, doubts: Sequence[Doubt], products: int) -> str:
    """For people."""
    if not doubts:
        return f"{task.name}: no label of {products} products is in doubt"
    some = (
        f"{given or 'none'} for {likely or 'none'} {count}" for given, likely, count in confused(doubts)[:PAIRS_SHOWN]
    )
    return f"{task.name}: {len(doubts)} labels of {products} products are probably wrong, most: {', '.join(some)}"


def check_output(output: Path) -> None:
    """Replace an earlier audit only.

    Raises:
        ValueError: something else is there.
    """
    if output.exists() and any(output.iterdir()) and not any(output.glob("doubts-*.csv")):
        raise ValueError(f"--output {output}: holds something else than an audit; name another directory")


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows([neutral(cell) for cell in row] for row in rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--output", type=Path, required=True, help="of the lists")
    cleaned = parser.add_mutually_exclusive_group()
    cleaned.add_argument("--relabel", type=Path, metavar="DIR", help="new data set, with the likely labels")
    cleaned.add_argument("--drop", type=Path, metavar="DIR", help="new data set, without the labels in doubt")
    return parser


if __name__ == "__main__":
    sys.exit(main())
