"""What the wide part must know of the data before it is trained."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict

from model.clip_towers import text_mask
from model.preprocess import pad_titles
from model.tasks import MISSING
from model.wide import WidePart
from train.data import ProductDataset, Sample

# N products, L labels of one task

MEASURED_ON = 2048  # products
STRENGTHS = (0.1, 0.3, 1.0)  # of the ridge
FEWEST = 32  # products with a label, of which anything can be said
LITTLE = 0.01  # of the variance; less counts as this


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
        shares = title_shares(wide, features_NF[has_title_N], complete, products)
        wide.title_share.copy_(torch.tensor(shares))


def title_shares(
    wide: WidePart, features_NF: torch.Tensor, complete: list[Sample], products: ProductDataset
) -> list[float]:
    """Of each task, the part of titles in what titles and images explain of its labels, each by itself.

    That is the variance that kernel ridge regression over the wide part's own features explains of products that it was
    not fitted to; 0.5 where too few products have a label.

    Args:
        features_NF: the images' statistics.
        complete: the products, each with title and image.
    """
    images_NF = wide.standardised(features_NF).double().numpy()
    ids_NT = _titles(complete, products)
    rows, weights = (part.numpy() for part in wide.terms(ids_NT, text_mask(ids_NT)))
    ends = np.arange(0, rows.size + 1, rows.shape[1])
    terms_NR = sparse.csr_matrix((weights.ravel().astype(float), rows.ravel(), ends), (len(rows), wide.terms.rows))
    terms_NR.eliminate_zeros()
    kernels = (terms_NR @ terms_NR.T).toarray(), images_NF @ images_NF.T
    shares = []
    for _, targets_NL in products.tasks.split(np.stack([sample.targets for sample in complete])):
        title, image = (explained(kernel_NN, targets_NL) for kernel_NN in kernels)
        shares.append(title / (title + image))
    return shares


def explained(kernel_NN: np.ndarray, targets_NL: np.ndarray) -> float:
    """Share of the labels' variance that halves of the products tell of each other, by the best of STRENGTHS."""
    labelled = np.flatnonzero(targets_NL[:, 0] != MISSING)
    if len(labelled) < FEWEST:
        return LITTLE
    labels_NL = targets_NL[labelled] - targets_NL[labelled].mean(axis=0)
    if not labels_NL.any():
        return LITTLE
    kernel_NN = kernel_NN[np.ix_(labelled, labelled)]
    halves = KFold(2, shuffle=True, random_state=0)  # data sets may be in the order of their labels
    models = (KernelRidge(alpha=strength, kernel="precomputed") for strength in STRENGTHS)
    found = (cross_val_predict(model, kernel_NN, labels_NL, cv=halves) for model in models)
    return max(LITTLE, *(r2_score(labels_NL, told, multioutput="variance_weighted") for told in found))


def _titles(samples: list[Sample], products: ProductDataset) -> torch.Tensor:
    return torch.from_numpy(pad_titles([sample.input_ids for sample in samples], products.preprocess))
