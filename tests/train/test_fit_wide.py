"""How much titles and images tell of each task, before anything is trained."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import KFold
from tiny import tiny_config

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.clip_towers import create_clip, preprocess_config
from model.preprocess import TitleTokenizer
from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from model.wide import WidePart
from train.data import ProductDataset
from train.fit_wide import FEWEST, LITTLE, STRENGTHS, explained, fit_wide

COUNT = 160
SEASONS = ["spring", "summer", "autumn"]
TASKS = TaskSet(
    [
        SingleLabel(name="season", labels=SEASONS),  # the title says it
        MultiLabel(name="look", labels=["dark", "bright"]),  # the image shows it
        SingleLabel(name="luck", labels=["good", "bad"]),  # nothing tells
        SingleLabel(name="rare", labels=["a", "b"]),
    ]
)
PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)


def written(directory: Path, *, titles: bool = True, images: bool = True) -> ProductDataset:
    """In the order of the seasons, as many a catalogue is."""
    rng, products = np.random.default_rng(0), []
    words = ["cotton", "dress", "long", "party", "linen", "new"]
    for n in range(COUNT):
        season, is_bright = SEASONS[n * len(SEASONS) // COUNT], bool(rng.integers(2))
        title = f"{rng.choice(words)} {season} {rng.choice(words)}"
        labels = {"season": season, "look": ["bright" if is_bright else "dark"]}
        labels |= {"luck": str(rng.choice(["good", "bad"])), "rare": "a" if n < FEWEST - 1 else None}
        image = picture(rng, is_bright) if images or n == 0 else b""
        products.append(Product(f"p{n}", image, title if titles or n == 1 else "", labels, "train"))
    write_rows(NewDataset(directory=directory, tasks=TASKS, source="test", settings={}), products)
    return ProductDataset(directory, "train", PREPROCESS, TOKENIZER, tasks=TASKS.with_mismatch())


def picture(rng: np.random.Generator, is_bright: bool) -> bytes:
    pixels, encoded = rng.integers(0, 120, (64, 64, 3)) + 130 * is_bright, io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def shares_of(products: ProductDataset) -> dict[str, float]:
    wide = WidePart(products.tasks, 16, PREPROCESS.vocab_size, 64)
    fit_wide(wide, products)
    return dict(zip((task.name for task in products.tasks), wide.title_share.tolist(), strict=True))


def test_titles_count_where_they_tell_and_images_where_they_do(tmp_path: Path):
    shares = shares_of(written(tmp_path / "data"))
    assert shares["season"] > 0.9 and shares["look"] < 0.1
    assert 0.2 < shares["luck"] < 0.8
    assert shares["rare"] == shares["mismatch"] == 0.5, "too few labels, and none"


def test_without_complete_products_both_count_alike(tmp_path: Path):
    assert set(shares_of(written(tmp_path / "data", titles=False, images=False)).values()) == {0.5}


def test_what_is_explained_is_what_ridge_regression_over_halves_explains():
    rng = np.random.default_rng(1)
    features_NF, weights = rng.normal(size=(90, 5)), rng.normal(size=(5, 2))
    targets_NL = (features_NF @ weights + rng.normal(size=(90, 2)) > 0).astype(float)
    targets_NL[:10] = MISSING
    x, y = features_NF[10:], targets_NL[10:] - targets_NL[10:].mean(axis=0)
    best = 0.0
    for strength in STRENGTHS:
        error = 0.0
        for fitted, told in KFold(2, shuffle=True, random_state=0).split(x):
            solved = np.linalg.solve(x[fitted].T @ x[fitted] + strength * np.eye(5), x[fitted].T @ y[fitted])
            error += ((y[told] - x[told] @ solved) ** 2).sum()
        best = max(best, 1 - error / (y**2).sum())
    assert explained(features_NF @ features_NF.T, targets_NL) == pytest.approx(best) and best > 0.1


def test_labels_that_nothing_can_be_said_of():
    kernel_NN = np.eye(FEWEST)
    assert explained(kernel_NN, np.ones((FEWEST, 1))) == LITTLE, "all have it"
    assert explained(kernel_NN, np.arange(FEWEST)[:, None] % 2.0) == LITTLE, "no product tells of another"
    assert explained(kernel_NN[1:, 1:], np.arange(FEWEST - 1)[:, None] % 2.0) == LITTLE, "too few"
