"""A split as the rivals read it: cleaned titles and image features, by the network's own rules for bad products."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from model.config import PreprocessConfig
from model.preprocess import TitleTokenizer, clean_title
from model.tokenizer import build_tokenizer
from train.data import IN_ORDER, ProductDataset
from train.rivals.image_features import image_features

# N products, F image features, C labels of all tasks

PREPROCESS = PreprocessConfig(image_size=64)
BATCH_SIZE = 128


class Products(NamedTuple):
    """A split in its order.

    titles: cleaned, "" where there is none. images_NF: float32, zeros where there is none; F is 0 where nobody asked.
    present_N2: bool, title and image. targets_NC: as in train.data.Batch. problems: of what could not be read, which
    has no label.
    """

    titles: list[str]
    images_NF: np.ndarray
    present_N2: np.ndarray
    targets_NC: np.ndarray
    problems: list[str]


def open_split(data: Path, split: str) -> ProductDataset:
    """A split with the rivals' preprocessing.

    Raises:
        ValueError: it is missing or unreadable.
    """
    return ProductDataset(data, split, PREPROCESS, _tokenizer(), IN_ORDER)


@functools.cache
def _tokenizer() -> TitleTokenizer:
    return TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)


def read_products(dataset: ProductDataset, with_images: bool) -> Products:
    """Read a split once; it may be a perturbed one."""
    titles: list[str] = []
    images, present, targets, problems = [], [], [], []
    for start in tqdm(range(0, len(dataset), BATCH_SIZE), f"reading {dataset.name}", leave=False, mininterval=2):
        indices = range(start, min(start + BATCH_SIZE, len(dataset)))
        samples = [dataset[index] for index in indices]
        present_B2 = np.array([sample.present for sample in samples])
        readable_B1 = np.array([[sample.problem is None] for sample in samples])
        titles += [
            clean_title(dataset.product(index)["title"] or "", PREPROCESS.max_title_bytes) if is_readable else ""
            for index, (is_readable,) in zip(indices, readable_B1, strict=True)
        ]
        if with_images:
            features_BF = image_features(np.stack([sample.pixels for sample in samples]))
            images.append(features_BF * (present_B2[:, 1:] & readable_B1))
        present.append(present_B2)
        targets += [sample.targets for sample in samples]
        problems += [sample.problem for sample in samples if sample.problem]
    images_NF = np.concatenate(images) if images else np.zeros((len(titles), 0), dtype=np.float32)
    return Products(titles, images_NF, np.concatenate(present), np.stack(targets), problems)
