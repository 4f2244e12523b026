"""What the wide part must know of the data before it is trained, and what it begins with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from model.clip_towers import text_mask
from model.preprocess import pad_titles
from model.tasks import MISSING, Task
from model.wide import WidePart
from train.data import ProductDataset, Sample

# N products, R terms, F statistics, L labels of one task

MEASURED_ON = 4096  # products
STRENGTHS = (0.1, 0.3, 1.0)  # of the ridge, where the features of a product have length 1
SHARPNESS = (1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # of logits, beside what the ridge tells
FEWEST = 32  # products with a label, of which anything can be said
LITTLE = 0.01  # of the variance; less counts as this
LEAST_PRIOR = 1e-3


class Features(NamedTuple):
    """What the wide part sees of complete products: weights of terms, standardised statistics, both float64."""

    terms_NR: sparse.csr_matrix
    images_NF: np.ndarray

    def kernels(self) -> tuple[np.ndarray, np.ndarray]:
        """How alike products are by title, and by image; float32 [N, N]."""
        title_NN, image_NN = (self.terms_NR @ self.terms_NR.T).toarray(), self.images_NF @ self.images_NF.T
        return title_NN.astype(np.float32), image_NN.astype(np.float32)


class Ridge(NamedTuple):
    """The best of STRENGTHS by what halves of the products tell of each other: told_NL, which explains so much."""

    explained: float
    strength: float
    told_NL: np.ndarray


@torch.no_grad()
def fit_wide(wide: WidePart, products: ProductDataset) -> None:
    """Fit it to the images and titles of MEASURED_ON products at most, evenly spread, the same on every rank.

    Raises:
        ValueError: no image can be read, or no title.
    """
    places = np.unique(np.linspace(0, len(products) - 1, MEASURED_ON, dtype=int))
    samples = [sample for sample in map(products.__getitem__, places.tolist()) if sample.problem is None]
    images, titles = ([sample for sample in samples if sample.present[side]] for side in (1, 0))
    for what, found in (("image", images), ("title", titles)):
        if not found:
            raise ValueError(f"{products.name}: no {what} to measure for the wide part; set --model.wide false")
    pixels_NHWC = torch.from_numpy(np.stack([sample.pixels for sample in images]))
    features_NF = torch.cat([wide.statistics(some) for some in pixels_NHWC.split(64)])
    wide.fit(features_NF, _titles(titles, products))
    has_title_N = [sample.present[0] for sample in images]
    if any(has_title_N):
        complete = [sample for sample in images if sample.present[0]]
        targets_NL = np.stack([sample.targets for sample in complete])
        fit_tasks(wide, _features(wide, features_NF[has_title_N], complete, products), products.tasks.split(targets_NL))


def fit_tasks(wide: WidePart, features: Features, targets: Iterable[tuple[Task, np.ndarray]]) -> None:
    """Measure how much titles tell of each task beside images, and begin with what both tell together.

    A task's `title_share` is the part of titles in what titles and images explain of its labels, each by itself, of
    products that the ridge was not fitted to; 0.5 where too few products have a label.
    """
    title_NN, image_NN = features.kernels()
    for number, (task, targets_NL) in enumerate(targets):
        found = [ridge(kernel_NN, targets_NL) for kernel_NN in (title_NN, image_NN)]
        title, image = (max(LITTLE, one.explained) if one else LITTLE for one in found)
        share = title / (title + image)
        wide.title_share[number] = share
        both_NN = share**2 * title_NN + (1 - share) ** 2 * image_NN
        size = float(both_NN.diagonal().mean())
        both_NN /= size
        together = ridge(both_NN, targets_NL)
        # Of a kind that has other logits than labels nobody knows what they would be.
        if together and together.explained > LITTLE and task.columns == targets_NL.shape[1]:
            labelled = np.flatnonzero(targets_NL[:, 0] != MISSING)
            known_NL = targets_NL[labelled]
            sharpness = sharpest(task, together.told_NL, known_NL)
            weights_NL = _solved(both_NN[np.ix_(labelled, labelled)], known_NL, together.strength) * sharpness / size
            terms_RL = share**2 * (features.terms_NR[labelled].T @ weights_NL)
            images_FL = (1 - share) ** 2 * (features.images_NF[labelled].T @ weights_NL)
            wide.begin(number, torch.from_numpy(terms_RL), torch.from_numpy(images_FL))


def ridge(kernel_NN: np.ndarray, targets_NL: np.ndarray) -> Ridge | None:
    """Kernel ridge regression of a task's labels; None where nothing can be said of them."""
    labelled = np.flatnonzero(targets_NL[:, 0] != MISSING)
    if len(labelled) < FEWEST:
        return None
    labels_NL = targets_NL[labelled] - targets_NL[labelled].mean(axis=0)
    if not labels_NL.any():
        return None
    kernel_NN = kernel_NN[np.ix_(labelled, labelled)]
    halves = KFold(2, shuffle=True, random_state=0)  # data sets may be in the order of their labels
    found = []
    for strength in STRENGTHS:
        told_NL = cross_val_predict(KernelRidge(alpha=strength, kernel="precomputed"), kernel_NN, labels_NL, cv=halves)
        found.append(Ridge(r2_score(labels_NL, told_NL, multioutput="variance_weighted"), strength, told_NL))
    return max(found, key=lambda one: one.explained)


def sharpest(task: Task, told_NL: np.ndarray, targets_NL: np.ndarray) -> float:
    """How many times logits are what the ridge tells, beside the labels' logits as they are: by the lowest loss."""
    prior_L = torch.from_numpy(targets_NL.mean(axis=0)).clamp(LEAST_PRIOR, 1 - LEAST_PRIOR).logit()
    told, targets = torch.from_numpy(told_NL), torch.from_numpy(targets_NL)
    weights_L = torch.ones(targets.shape[1])
    logits = ((prior_L + sharpness * told).float() for sharpness in SHARPNESS)
    losses = [task.loss(some, targets, weights_L).mean().item() for some in logits]
    return SHARPNESS[int(np.argmin(losses))]


def _solved(kernel_NN: np.ndarray, targets_NL: np.ndarray, strength: float) -> np.ndarray:
    labels_NL = targets_NL - targets_NL.mean(axis=0)
    return KernelRidge(alpha=strength, kernel="precomputed").fit(kernel_NN, labels_NL).dual_coef_


def _features(wide: WidePart, features_NF: torch.Tensor, complete: list[Sample], products: ProductDataset) -> Features:
    ids_NT = _titles(complete, products)
    rows, weights = (part.numpy() for part in wide.terms(ids_NT, text_mask(ids_NT)))
    ends = np.arange(0, rows.size + 1, rows.shape[1])
    terms_NR = sparse.csr_matrix((weights.ravel().astype(float), rows.ravel(), ends), (len(rows), wide.terms.rows))
    terms_NR.eliminate_zeros()
    return Features(terms_NR, wide.standardised(features_NF).double().numpy())


def _titles(samples: list[Sample], products: ProductDataset) -> torch.Tensor:
    return torch.from_numpy(pad_titles([sample.input_ids for sample in samples], products.preprocess))
