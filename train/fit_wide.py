"""What the wide part must know of the data before it is trained."""

from __future__ import annotations

import numpy as np
import torch

from model.preprocess import pad_titles
from model.wide import WidePart
from train.data import ProductDataset

MEASURED_ON = 2048  # products


def fit_wide(wide: WidePart, products: ProductDataset) -> None:
    """Fit it to the images and titles of MEASURED_ON products at most, evenly spread, the same on every rank.

    Raises:
        ValueError: no image can be read, or no title.
    """
    places = np.unique(np.linspace(0, len(products) - 1, MEASURED_ON, dtype=int))
    samples = [sample for sample in map(products.__getitem__, places.tolist()) if sample.problem is None]
    images = [sample.pixels for sample in samples if sample.present[1]]
    titles = [sample.input_ids for sample in samples if sample.present[0]]
    for what, found in (("image", images), ("title", titles)):
        if not found:
            raise ValueError(f"{products.name}: no {what} to measure for the wide part; set --model.wide false")
    wide.fit(torch.from_numpy(np.stack(images)), torch.from_numpy(pad_titles(titles, products.preprocess)))
