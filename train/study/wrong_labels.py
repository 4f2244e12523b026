"""How well are wrong labels found? Of apa_mini, whose train split has one in ten wrong on purpose, and known.

python -m train.study.wrong_labels data/apa_mini
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cma_clip.command import command
from cma_clip.tables import markdown
from dataset.format import DatasetInfo
from model.tasks import Task
from train.audit.doubts import find_doubts
from train.audit.out_of_fold import out_of_fold
from train.metrics import auroc
from train.prepare.apa_mini import true_labels
from train.rivals.products import open_split, read_products

HEAD = ("task", "products", "wrong", "AUROC", "of so many least believed wrong", "in doubt", "wrong if relabelled")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="directory written by train.prepare apa_mini")
    args = parser.parse_args(arguments)
    tasks, truth = DatasetInfo.read(args.data).tasks, truth_of(args.data)
    products = read_products(open_split(args.data, "train"), with_images=True)
    (scores_NC,) = out_of_fold(tasks, products)
    columns = zip(tasks.split(scores_NC), tasks.split(products.targets_NC), zip(*truth, strict=True), strict=True)
    rows = [found(task, scores, targets, true_N) for (task, scores), (_, targets), true_N in columns]
    print(markdown(HEAD, rows), end="")


def truth_of(data: Path) -> list[tuple[str, str]]:
    """The right colour and pattern of each product of the train split, in its order.

    Raises:
        ValueError: it is no apa_mini.
    """
    settings = DatasetInfo.read(data).settings
    if settings.get("data_set") != "apa_mini":
        raise ValueError(f"{data}: only of apa_mini it is known which labels are wrong")
    seed = settings["seed"]
    assert isinstance(seed, int), seed
    ids = open_split(data, "train").columns("id")["id"]
    return [true_labels(seed, "train", int(id.rpartition("-")[2])) for id in ids]


def found(task: Task, scores_NL: np.ndarray, targets_NL: np.ndarray, true_N: Sequence[str]) -> list[object]:
    """A row of HEAD."""
    given_N, right_N = targets_NL.argmax(axis=1), np.array([task.labels.index(label) for label in true_N])
    wrong_N = given_N != right_N
    belief_N = scores_NL[np.arange(len(given_N)), given_N]
    head = np.argsort(belief_N, kind="stable")[: wrong_N.sum()]
    doubts = find_doubts(task, scores_NL, targets_NL)
    for doubt in doubts:
        assert doubt.likely is not None
        given_N[doubt.product] = task.labels.index(doubt.likely)
    area = auroc(torch.from_numpy(1 - belief_N), torch.from_numpy(wrong_N))
    shown = [f"{area:.3f}", f"{wrong_N[head].mean():.3f}", len(doubts), int((given_N != right_N).sum())]
    return [task.name, len(wrong_N), int(wrong_N.sum()), *shown]


if __name__ == "__main__":
    sys.exit(main())
