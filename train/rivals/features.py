"""Titles and images to the columns that logistic regression reads, fitted on the train split."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import StandardScaler

from train.rivals.products import Products
from train.rivals.table import Rival

# N products, F features

MOST_TERMS = 50_000  # of words, and of characters


class TitleFeatures:
    """TF-IDF of word 1-2-grams and character 2-5-grams, each with length 1, and whether there is no title.

    Raises:
        ValueError: no two titles share a word.
    """

    def __init__(self, products: Products) -> None:
        common: dict[str, Any] = {"lowercase": False, "min_df": 2, "sublinear_tf": True, "dtype": np.float32}
        words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", max_features=MOST_TERMS, **common)
        parts = TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", max_features=MOST_TERMS, **common)
        self.terms = FeatureUnion([("words", words), ("characters", parts)])
        try:
            self.terms.fit(products.titles)
        except ValueError as error:
            raise ValueError(f"TF-IDF finds nothing to count in the titles of the train split: {error}") from None

    def __call__(self, products: Products) -> sparse.csr_matrix:
        absent_N1 = ~products.present_N2[:, :1]
        return sparse.csr_matrix(sparse.hstack([self.terms.transform(products.titles), absent_N1], dtype=np.float32))


class ImageFeatures:
    """Standardised image features of length about 1, zeros where there is no image, and whether there is none."""

    def __init__(self, products: Products) -> None:
        seen_NF = products.images_NF[products.images_NF.any(axis=1)]
        if not len(seen_NF):
            raise ValueError("no product of the train split has an image that can be read")
        self.scaler = StandardScaler().fit(seen_NF)

    def __call__(self, products: Products) -> np.ndarray:
        is_there_N1 = products.images_NF.any(axis=1, keepdims=True)
        scaled_NF = self.scaler.transform(products.images_NF) / np.sqrt(products.images_NF.shape[1])
        absent_N1 = ~products.present_N2[:, 1:]
        return np.concatenate([scaled_NF * is_there_N1, absent_N1], axis=1, dtype=np.float32)


class Features:
    """The columns of a rival: those of titles, then those of images.

    Args:
        products: the train split.
    Raises:
        ValueError: what the rival reads is nowhere in it.
    """

    def __init__(self, rival: Rival, products: Products) -> None:
        self.titles = TitleFeatures(products) if rival.reads_titles else None
        self.images = ImageFeatures(products) if rival.reads_images else None

    def __call__(self, products: Products, title_weight: float = 1.0) -> np.ndarray | sparse.csr_matrix:
        """Float32 [N, F]; `title_weight` says how much titles count beside images where both are read."""
        if self.titles is None or self.images is None:
            (only,) = (features for features in (self.titles, self.images) if features)
            return only(products)
        blocks = [self.titles(products) * title_weight, sparse.csr_matrix(self.images(products))]
        return sparse.csr_matrix(sparse.hstack(blocks, dtype=np.float32))
