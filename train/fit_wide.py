"""What the wide part knows, fitted before anything is trained: kernel logistic regression over titles and images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from cma_clip.machine import usable_cores
from model.clip_towers import text_mask
from model.image_statistics import FEATURES
from model.preprocess import pad_titles
from model.tasks import Task, has_labels
from model.wide import Linear, WidePart
from train.data import ProductDataset, Sample
from train.kernel_ridge import Features, Ridge, by_cholesky, by_conjugate_gradients
from train.ranks import local_ranks

# N products, R terms, F statistics, L labels of one task

FITTED_TO = 32_768  # products
MEASURED_ON = 4096  # of them, by whose halves the best way to fit is found
STRENGTHS = (0.1, 0.3, 1.0)  # of the penalty, where the features of a product have length 1
STEPS = (1, 2, 3, 5, 8, 16)  # after which a fit may end
SCALES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # of the logits that it ends with
FEWEST = 32  # products with a label, of which anything can be said
LITTLE = 0.01  # of the loss; who explains less counts as this
LEAST_PRIOR = 1e-3
AT_A_TIME = 64


class Held(NamedTuple):
    """How halves of the products tell each other's labels best.

    explained: the part of the loss that goes, beside telling them by how often they are. strength, steps, scale: of
    STRENGTHS, STEPS and SCALES.
    """

    explained: float
    strength: float
    steps: int
    scale: float


@torch.no_grad()
def fit_wide(wide: WidePart, products: ProductDataset) -> None:
    """Fit it to the images and titles of FITTED_TO products at most, evenly spread, while the other ranks wait.

    Raises:
        ValueError: no image can be read, or no title.
    """
    places = spread(len(products), FITTED_TO)
    print(f"{products.name}: fitting the wide part to {len(places):,} products")
    with threads_of_all():
        _fit(wide, products, places)


def _fit(wide: WidePart, products: ProductDataset, places: np.ndarray) -> None:
    images, titles, statistics_NF = read(wide, products, places)
    for what, found in (("image", images), ("title", titles)):
        if not found:
            raise ValueError(f"{products.name}: no {what} to measure for the wide part; set --model.wide false")
    wide.fit(statistics_NF, _titles(titles, products))
    has_title_N = [sample.present[0] for sample in images]
    if any(has_title_N):
        complete = [sample for sample in images if sample.present[0]]
        targets_NL = np.stack([sample.targets for sample in complete])
        chunks = (
            _titles(complete[first : first + AT_A_TIME], products) for first in range(0, len(complete), AT_A_TIME)
        )
        fit_tasks(wide, features_of(wide, statistics_NF[has_title_N], chunks), products.tasks.split(targets_NL))


def spread(count: int, most: int) -> np.ndarray:
    """Places of so many at most, evenly over all."""
    return np.unique(np.linspace(0, count - 1, most, dtype=int))


@contextmanager
def threads_of_all() -> Iterator[None]:
    """Compute with the threads of all ranks of this machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(usable_cores(), before * local_ranks()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read(wide: WidePart, products: ProductDataset, places: np.ndarray) -> tuple[list[Sample], list[Sample], Tensor]:
    """Products with an image, those with a title, and statistics of the images, [N, F]; no pixels are kept."""
    images, titles, statistics = [], [], [torch.zeros(0, FEATURES)]
    with tqdm(total=len(places), desc="wide part", unit="product", leave=False) as bar:
        for some in np.array_split(places, -(-len(places) // AT_A_TIME)):
            samples = [sample for sample in map(products.__getitem__, some.tolist()) if sample.problem is None]
            pixels = [sample.pixels for sample in samples if sample.present[1]]
            if pixels:
                statistics.append(wide.statistics(torch.from_numpy(np.stack(pixels))))
            samples = [replace(sample, pixels=sample.pixels[:0]) for sample in samples]
            images += [sample for sample in samples if sample.present[1]]
            titles += [sample for sample in samples if sample.present[0]]
            bar.update(len(some))
    return images, titles, torch.cat(statistics)


@torch.no_grad()
def fit_tasks(wide: WidePart, features: Features, targets: Iterable[tuple[Task, np.ndarray]]) -> None:
    """Fit each task's labels to titles and images together, both as long as they tell of the task by themselves.

    Both sides would otherwise learn the answers that they see by heart, at the cost of what one of them knows. Where
    nothing can be told, what remains is how often each label is.
    """
    bar = tqdm([*targets], "wide part", unit="task", leave=False)
    for number, (task, targets_NL) in enumerate(bar):
        labelled = np.flatnonzero(has_labels(targets_NL))
        # Of a kind that has other logits than labels nobody knows what they would be.
        if len(labelled) < FEWEST or task.columns != targets_NL.shape[1]:
            continue
        measured = labelled[spread(len(labelled), MEASURED_ON)]
        kernels, measured_NL = features.of(measured).kernels(), torch.from_numpy(targets_NL[measured]).float()
        alone = [held_out(task, side_NN, measured_NL) for side_NN in kernels]
        title, image = (max(LITTLE, one.explained) for one in alone)
        share = title / (title + image)
        size = (share**2 * kernels[0].diagonal() + (1 - share) ** 2 * kernels[1].diagonal()).mean().item()
        lengths = (share**2 / size, (1 - share) ** 2 / size)
        together = held_out(task, lengths[0] * kernels[0] + lengths[1] * kernels[1], measured_NL)
        own, known_NL = features.of(labelled), torch.from_numpy(targets_NL[labelled]).float()
        ways = ((lengths, together), ((1.0, 0.0), alone[0]), ((0.0, 1.0), alone[1]))
        wide.set_task(number, prior(known_NL), [linear(task, own, known_NL, *way) for way in ways])


def linear(task: Task, features: Features, targets_NL: Tensor, lengths: tuple[float, float], best: Held) -> Linear:
    """The best fit to the kernels of titles and images, each so many times, as weights of features."""
    weights_NL = torch.zeros_like(targets_NL)
    if best.explained > 0:
        ridge = by_conjugate_gradients(features, lengths)
        weights_NL = best.scale * solve(task, ridge, targets_NL, best.strength, best.steps)[-1]
    terms_RL = lengths[0] * (features.terms_NR.T @ weights_NL.numpy())
    images_FL = lengths[1] * (features.images_NF.T @ weights_NL.numpy())
    intercept_L = prior(targets_NL) + weights_NL.sum(dim=0)
    return Linear(intercept_L, torch.from_numpy(terms_RL), torch.from_numpy(images_FL))


def held_out(task: Task, kernel_NN: Tensor, targets_NL: Tensor) -> Held:
    """Try all ways to fit one half of the products, by the loss of the other."""
    ways = [(strength, steps, scale) for strength in STRENGTHS for steps in STEPS for scale in SCALES]
    losses, of_prior = torch.zeros(len(ways), dtype=torch.float64), 0.0
    for fitted, other in halves(len(targets_NL)):
        frequent_L, known_NL = prior(targets_NL[fitted]), targets_NL[other]
        of_prior += _loss(task, frequent_L.expand_as(known_NL), known_NL)
        ridge, found = by_cholesky(kernel_NN[fitted][:, fitted]), []
        for strength in STRENGTHS:
            for weights_NL in solve(task, ridge, targets_NL[fitted], strength):
                told_NL = (kernel_NN[other][:, fitted] + 1) @ weights_NL
                found += [_loss(task, frequent_L + scale * told_NL, known_NL) for scale in SCALES]
        losses += torch.tensor(found, dtype=torch.float64)
    return Held(1 - losses.min().item() / of_prior, *ways[int(losses.argmin())])


def halves(products: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What is fitted and what is told, and the other way round; drawn, as data may be in the order of their labels."""
    first_N, second_N = torch.randperm(products, generator=torch.Generator().manual_seed(0)).tensor_split(2)
    return (first_N, second_N), (second_N, first_N)


def _loss(task: Task, logits_NL: Tensor, targets_NL: Tensor) -> float:
    return task.loss(logits_NL, targets_NL, targets_NL.new_ones(targets_NL.shape[1])).sum().item()


def solve(task: Task, ridge: Ridge, targets_NL: Tensor, strength: float, steps: int = STEPS[-1]) -> list[Tensor]:
    """Weights [N, L] of products after each of STEPS up to `steps`: logits are the prior and (kernel + 1) @ weights.

    They go towards the least sum of the losses, those of several labels added, and strength / 2 times the squared
    length of the weights of features and intercept, by a quadratic that bounds the loss (Böhning 1992): each step is a
    ridge regression on logits that are to rise by what is left, the first on the labels themselves. Where labels are
    wrong fewer steps tell more.
    """
    bound = 4.0 if task.several_labels else 2.0  # inverse of the most that a loss is curved
    prior_L, penalty = prior(targets_NL), bound * strength
    regression = ridge(penalty)
    logits_NL, before_NL = torch.zeros_like(targets_NL), torch.zeros_like(targets_NL)
    found = []
    for step in range(1, steps + 1):
        ahead_NL = logits_NL + (step - 1) / (step + 2) * (logits_NL - before_NL)  # as Nesterov (1983)
        given_NL = prior_L + ahead_NL
        chances_NL = given_NL.sigmoid() if task.several_labels else given_NL.softmax(dim=1)
        wanted_NL = ahead_NL + bound * (targets_NL - chances_NL)
        weights_NL = regression(wanted_NL)
        before_NL, logits_NL = logits_NL, wanted_NL - penalty * weights_NL
        if step in STEPS:
            found.append(weights_NL)
    return found


def prior(targets_NL: Tensor) -> Tensor:
    """Logits of the labels as often as they are, [L]."""
    return targets_NL.mean(dim=0).clamp(LEAST_PRIOR, 1 - LEAST_PRIOR).logit()


def features_of(wide: WidePart, statistics_NF: Tensor, titles: Iterable[Tensor]) -> Features:
    """What the wide part sees of complete products; `titles` are token ids of some at a time, [B, T] each."""
    terms = []
    for ids_BT in titles:
        rows, weights = (part.numpy() for part in wide.terms(ids_BT, text_mask(ids_BT)))
        ends = np.arange(0, rows.size + 1, rows.shape[1])
        terms_BR = sparse.csr_matrix((weights.ravel(), rows.ravel(), ends), (len(rows), wide.terms.rows))
        terms_BR.eliminate_zeros()
        terms.append(terms_BR)
    return Features(sparse.vstack(terms, "csr"), wide.standardised(statistics_NF).numpy())


def _titles(samples: Sequence[Sample], products: ProductDataset) -> Tensor:
    return torch.from_numpy(pad_titles([sample.input_ids for sample in samples], products.preprocess))
