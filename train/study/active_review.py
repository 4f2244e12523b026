"""How many looks at products a review's order saves against one drawn by chance; of apa_mini, whose labels are known.

python -m train.study.active_review data/apa_mini_3000

A simulated reviewer gives the true labels of both tasks. `crawled`: every product has labels, of which one in ten of
each task is wrong; those that were looked at are right. `new`: a start drawn by chance has labels, and in rounds what
was looked at. The model is that of the rivals, logistic regression over titles and images, fitted again each time. What
it answers orders the queue, of crawled labels also with what an audit doubts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from tqdm import tqdm

from cma_clip.command import command
from cma_clip.tables import markdown
from dataset.format import DatasetInfo
from dataset.review_order import Said, answered, in_turns, look, rarity_of
from model.tasks import Task, TaskSet
from train.audit.doubts import find_doubts
from train.audit.out_of_fold import FOLDS
from train.metrics import average_precision
from train.prepare.apa_mini import WRONG_LABELS
from train.rivals.features import Features
from train.rivals.logistic import Linear, fit
from train.rivals.products import open_split, read_products
from train.rivals.table import RIVALS
from train.study.wrong_labels import truth_of
from train.thresholds import most_at_precision

# N products, F features, K tasks, L labels of one task, D draws

TITLE_WEIGHT = 0.3  # what validation chooses for all apa_mini
DIRECTIONS = 512  # that features are reduced to, so that a fit takes a tenth of a second
STRENGTHS = (1.0, 3.0, 10.0, 30.0)  # as train.rivals.rival; the one that answers validation best is taken
SHARES = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1)  # of the crawled products that are looked at
ROUNDS = 9
AT_RANDOM = "at random"
HEAD = ("labels", "order by", "task", "looks", "R@P90", AT_RANDOM, "looks at random for as much", "times as many")
Curve = dict[int, list[float]]  # looks -> R@P90 of each task
Curves = dict[tuple[str, str], list[Curve]]  # labels and order -> D curves


class Known(NamedTuple):
    """apa_mini. By split: features, float32 [N, F], and given labels by their places in the task, int64 [N, K]."""

    tasks: TaskSet
    features: dict[str, np.ndarray]
    given: dict[str, np.ndarray]
    true_NK: np.ndarray


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="directory written by train.prepare apa_mini")
    parser.add_argument("--draws", type=int, default=6, help="of wrong labels, starts and random orders (%(default)s)")
    parser.add_argument("--start", type=int, default=200, help="products that new labels begin with (%(default)s)")
    parser.add_argument("--round", type=int, default=100, help="new labels from one fit to the next (%(default)s)")
    args = parser.parse_args(arguments)
    if args.draws < 2 or args.start < 1 or args.round < 1:
        raise ValueError("--draws is 2 or more, for a standard error; --start and --round are 1 or more")
    known = read(args.data)
    if args.start + args.round > len(known.true_NK):
        raise ValueError(f"{args.data}: {len(known.true_NK)} products to train on leave none to look at")
    curves: Curves = {}
    for draw in tqdm(range(args.draws), "draws", leave=False):
        for name, curve in (*crawled(known, draw), *new(known, draw, args.start, args.round)):
            curves.setdefault(name, []).append(curve)
    print(markdown(HEAD, rows(known.tasks, curves)), end="")


def read(data: Path) -> Known:
    """Raises ValueError: it is no apa_mini, or a split is missing."""
    truth = truth_of(data)
    tasks = DatasetInfo.read(data).tasks
    splits = {name: read_products(open_split(data, name), True) for name in ("train", "validation", "test")}
    features = Features(RIVALS["tfidf_and_image_features"], splits["train"])
    columns = {name: features(products, TITLE_WEIGHT) for name, products in splits.items()}
    directions = TruncatedSVD(min(DIRECTIONS, *columns["train"].shape), random_state=0).fit(columns["train"])
    reduced = {name: directions.transform(matrix).astype(np.float32) for name, matrix in columns.items()}
    given = {
        name: np.stack([own_NL.argmax(axis=1) for _, own_NL in tasks.split(products.targets_NC)], axis=1)
        for name, products in splits.items()
    }
    true_NK = [[task.labels.index(label) for task, label in zip(tasks, labels, strict=True)] for labels in truth]
    return Known(tasks, reduced, given, np.array(true_NK))


def crawled(known: Known, draw: int) -> Iterator[tuple[tuple[str, str], Curve]]:
    """What is gained by putting right the first labels of each order; draw 0 has the data set's own wrong ones."""
    rng = np.random.default_rng((0, draw))
    all_N = np.arange(len(known.true_NK))
    wrong_NK = with_wrong(known, rng) if draw else known.given["train"]
    models = fitted(known, all_N, wrong_NK)
    orders = {
        "answers": queue(known, models, all_N, wrong_NK, wrong_NK),
        "answers, audit": queue(known, models, all_N, wrong_NK, wrong_NK, audit(known, wrong_NK, rng)),
        AT_RANDOM: rng.permutation(all_N),
    }
    for order, places_N in orders.items():
        curve = {}
        for looks in (round(share * len(all_N)) for share in SHARES):
            labels_NK, seen = wrong_NK.copy(), places_N[:looks]
            labels_NK[seen] = known.true_NK[seen]
            curve[looks] = judged(known, fitted(known, all_N, labels_NK))
        yield ("crawled", order), curve


def new(known: Known, draw: int, start: int, step: int) -> Iterator[tuple[tuple[str, str], Curve]]:
    """What is gained by labelling in rounds what a model of the labelled ones asks for; at random up to all."""
    drawn_N = np.random.default_rng((1, draw)).permutation(len(known.true_NK))
    rest = len(drawn_N) - start
    rounds = range(0, min(ROUNDS * step, rest) + 1, step)
    places, curve = drawn_N[:start], {}
    for looks in rounds:
        labels_NK = known.true_NK[places]
        models = fitted(known, places, labels_NK)
        curve[looks] = judged(known, models)
        asked = queue(known, models, np.setdiff1d(drawn_N, places), None, labels_NK)
        places = np.concatenate([places, asked[:step]])
    yield ("new", "answers"), curve
    at_random = {}
    for looks in sorted({*rounds, *range(rounds[-1], rest, 3 * step), rest}):
        places = drawn_N[: start + looks]
        at_random[looks] = judged(known, fitted(known, places, known.true_NK[places]))
    yield ("new", AT_RANDOM), at_random


def with_wrong(known: Known, rng: np.random.Generator) -> np.ndarray:
    """The true labels, one in ten of each task another one by chance."""
    sizes_K = [len(task.labels) for task in known.tasks]
    shift_NK = rng.integers(1, sizes_K, known.true_NK.shape) * (rng.random(known.true_NK.shape) < WRONG_LABELS)
    return (known.true_NK + shift_NK) % sizes_K


def fitted(known: Known, places_N: np.ndarray, labels_NK: np.ndarray) -> list[Linear]:
    """A model of each task, of the strength whose mean average precision on validation is the highest."""
    models = []
    for task, labels_N, validation_N in zip(known.tasks, labels_NK.T, known.given["validation"].T, strict=True):
        targets_NL = np.eye(len(task.labels), dtype=np.float32)[labels_N]
        tried = [fit(task, known.features["train"][places_N], targets_NL, strength) for strength in STRENGTHS]
        scores = [task.scores(model(known.features["validation"])) for model in tried]
        models.append(tried[int(np.argmax([_mean_precision(scores_NL, validation_N) for scores_NL in scores]))])
    return models


def _mean_precision(scores_NL: np.ndarray, labels_N: np.ndarray) -> float:
    of_labels = [average_precision(*map(torch.from_numpy, (scores_NL[:, i], labels_N == i))) for i in set(labels_N)]
    return float(np.mean([value for value in of_labels if value is not None]))


def answers(known: Known, models: Sequence[Linear], split: str, places_N: np.ndarray | slice) -> list[np.ndarray]:
    """Scores of each task, float32 [N, L]."""
    features_NF = known.features[split][places_N]
    return [task.scores(model(features_NF)) for task, model in zip(known.tasks, models, strict=True)]


def judged(known: Known, models: Sequence[Linear]) -> list[float]:
    """R@P90 of each task on test."""
    values = []
    for scores_NL, labels_N in zip(answers(known, models, "test", slice(None)), known.given["test"].T, strict=True):
        right_N = scores_NL.argmax(axis=1) == labels_N
        hits, _ = most_at_precision(torch.from_numpy(scores_NL.max(axis=1)), torch.from_numpy(right_N))
        values.append(hits / len(labels_N))
    return values


def audit(known: Known, labels_NK: np.ndarray, rng: np.random.Generator) -> list[dict[str, float]]:
    """Of each product the beliefs that `cma-clip audit` would list, by models of the other folds."""
    folds = np.array_split(rng.permutation(len(labels_NK)), FOLDS)
    scores = [np.zeros((len(labels_NK), len(task.labels)), dtype=np.float32) for task in known.tasks]
    for held in folds:
        others = np.setdiff1d(np.arange(len(labels_NK)), held)
        models = fitted(known, others, labels_NK[others])
        for own_NL, held_NL in zip(scores, answers(known, models, "train", held), strict=True):
            own_NL[held] = held_NL
    beliefs: list[dict[str, float]] = [{} for _ in labels_NK]
    for task, own_NL, labels_N in zip(known.tasks, scores, labels_NK.T, strict=True):
        for doubt in find_doubts(task, own_NL, np.eye(len(task.labels), dtype=np.float32)[labels_N]):
            beliefs[doubt.product][task.name] = doubt.belief
    return beliefs


def queue(
    known: Known,
    models: Sequence[Linear],
    places_N: np.ndarray,
    given_NK: np.ndarray | None,
    labelled_NK: np.ndarray,
    beliefs: Sequence[dict[str, float]] | None = None,
) -> np.ndarray:
    """The products in the order of a review.

    Args:
        given_NK: their labels; None where they have none.
        labelled_NK: all labels that there are, which tell how rare each is.
        beliefs: as `audit`.
    """
    counts = {
        task.name: dict(zip(task.labels, np.bincount(labels_N, minlength=len(task.labels)).tolist(), strict=True))
        for task, labels_N in zip(known.tasks, labelled_NK.T, strict=True)
    }
    rarity, worth_N, alike = rarity_of(known.tasks, counts), np.zeros(len(places_N)), []
    scores = answers(known, models, "train", places_N)
    for i, scores_KL in enumerate(zip(*scores, strict=True)):
        given: dict[str, Sequence[str] | None] = {}
        said: dict[str, Said] = {}
        for k, (task, scores_L) in enumerate(zip(known.tasks, scores_KL, strict=True)):
            given[task.name] = None if given_NK is None else (task.labels[given_NK[i, k]],)
            said[task.name] = Said((task.labels[scores_L.argmax()],), float(scores_L.max()))
        worth_N[i] = look(given, said, beliefs[i] if beliefs else {}, rarity).worth
        alike.append(answered(given, said))
    return places_N[in_turns(worth_N, alike)]


def rows(tasks: Sequence[Task], curves: Curves) -> Iterator[list[object]]:
    """Of HEAD, for each order but that by chance."""
    for (labels, order), of_order in curves.items():
        if order == AT_RANDOM:
            continue
        chance = curves[labels, AT_RANDOM]
        for k, task in enumerate(tasks):
            for looks in of_order[0]:
                value, shown = _mean([curve[looks][k] for curve in of_order])
                _, at_random = _mean([curve[looks][k] for curve in chance])
                needed = looks_for(value, {n: _mean([curve[n][k] for curve in chance])[0] for n in chance[0]})
                times = f"{needed / looks:.1f}" if looks else ""
                yield [labels, order, task.name, looks, shown, at_random, f"{needed:.0f}", times]


def looks_for(value: float, curve: dict[int, float]) -> float:
    """After how many looks a curve first has the value, on straight lines between its highest points so far; the last
    one if never.
    """
    looks = np.array(list(curve))
    best, first = np.unique(np.maximum.accumulate(list(curve.values())), return_index=True)
    return float(np.interp(value, best, looks[first], right=looks[-1]))


def _mean(values_D: Sequence[float]) -> tuple[float, str]:
    mean = float(np.mean(values_D))
    return mean, f"{mean:.3f} ± {np.std(values_D, ddof=1) / len(values_D) ** 0.5:.3f}"


if __name__ == "__main__":
    sys.exit(main())
