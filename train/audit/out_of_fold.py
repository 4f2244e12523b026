"""What is said of each product by a model that has not seen its label: logistic regression over titles and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from model.tasks import TaskSet
from train.rivals.features import Features
from train.rivals.logistic import fit
from train.rivals.products import Products
from train.rivals.rival import FittedRival
from train.rivals.table import RIVALS, Rival

# N products, C labels of all tasks

FOLDS = 5


def out_of_fold(tasks: TaskSet, train: Products, rest: Sequence[Products] = (), seed: int = 0) -> list[np.ndarray]:
    """Scores in 0..1, float32 [N, C]: of `train` those of each fold by a model of the others, and of each of the rest
    by one of all of `train`, so that no label of a test split comes to be in what is trained.

    How much weights are held back, and titles count beside images, is what answers the first fold best.

    Raises:
        ValueError: fewer products than folds, or a task that has no label in one of them; or as FittedRival.
    """
    count = len(train.titles)
    if count < FOLDS:
        raise ValueError(f"{count} products: {FOLDS} are needed, so that each is judged by a model of the others")
    first, *folds = np.array_split(np.random.default_rng(seed).permutation(count), FOLDS)
    logits_NC = np.zeros((count, tasks.num_columns), dtype=np.float32)
    with tqdm(total=FOLDS + bool(rest), desc="models", leave=False) as bar:
        chosen = FittedRival(reads(train), tasks, of(train, np.concatenate(folds)), of(train, first))
        logits_NC[first] = chosen.logits(of(train, first), tasks)
        bar.update()
        for held in folds:
            others = of(train, np.setdiff1d(np.arange(count), held))
            logits_NC[held] = _as_chosen(chosen, tasks, others, [of(train, held)])[0]
            bar.update()
        judged = [logits_NC, *(_as_chosen(chosen, tasks, train, rest) if rest else [])]
        bar.update(bool(rest))
    return [tasks.scores(logits) for logits in judged]


def reads(products: Products) -> Rival:
    """The rival that reads what there is."""
    title, image = products.present_N2[:, 0].any(), products.present_N2[:, 1].any()
    return RIVALS["tfidf_and_image_features" if title and image else "tfidf" if title else "image_features"]


def of(products: Products, places: Sequence[int] | np.ndarray) -> Products:
    """These products, in this order."""
    titles = [products.titles[place] for place in places]
    arrays = products.images_NF[places], products.present_N2[places], products.targets_NC[places]
    return Products(titles, *arrays, [])


def _as_chosen(chosen: FittedRival, tasks: TaskSet, train: Products, judged: Sequence[Products]) -> list[np.ndarray]:
    """Logits [N, C] of each of the judged by what is fitted to `train`."""
    features = Features(chosen.rival, train)
    weights = {choice.title_weight for choice in chosen.choices.values()}
    columns = {weight: [features(products, weight) for products in (train, *judged)] for weight in weights}
    parts: list[list[np.ndarray]] = [[] for _ in judged]
    for task, targets_NL in tasks.split(train.targets_NC):
        strength, weight, _ = chosen.choices[task.name]
        train_NF, *judged_NF = columns[weight]
        linear = fit(task, train_NF, targets_NL, strength)
        for part, each_NF in zip(parts, judged_NF, strict=True):
            part.append(linear(each_NF))
    return [np.concatenate(part, axis=1) for part in parts]
