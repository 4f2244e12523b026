"""How much titles and images tell of each task, before anything is trained."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.model_selection import KFold
from tiny import tiny_config

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.clip_towers import create_clip, preprocess_config, text_mask
from model.image_statistics import FEATURES
from model.preprocess import TitleTokenizer
from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from model.wide import Wide, WidePart
from train.data import ProductDataset
from train.fit_wide import FEWEST, STRENGTHS, Features, fit_tasks, fit_wide, ridge, sharpest

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
    found = ridge(features_NF @ features_NF.T, targets_NL)
    assert found and found.explained == pytest.approx(best) and best > 0.1


def test_labels_that_nothing_can_be_said_of():
    kernel_NN = np.eye(FEWEST)
    assert ridge(kernel_NN, np.ones((FEWEST, 1))) is None, "all have it"
    assert ridge(kernel_NN[1:, 1:], np.arange(FEWEST - 1)[:, None] % 2.0) is None, "too few"
    told = ridge(kernel_NN, np.arange(FEWEST)[:, None] % 2.0)
    assert told and told.explained <= 0, "no product tells of another"


def test_the_wide_part_begins_with_what_it_knows(tmp_path: Path):
    products = written(tmp_path / "data")
    wide = WidePart(products.tasks, 16, PREPROCESS.vocab_size, 64)
    fit_wide(wide, products)
    batch = products.collate([products[n] for n in range(COUNT)])
    mask_BT = text_mask(batch.input_ids_BT)
    logits_BC = wide.weigh(wide(batch.input_ids_BT, mask_BT, batch.pixels_BHWC), torch.full((COUNT, 5), 0.5)).detach()
    columns = {task.name: part for task, part in products.tasks.split_logits(logits_BC)}
    targets = {task.name: part for task, part in products.tasks.split(batch.targets_BC)}
    for name in ("season", "look"):
        assert (columns[name].argmax(dim=1) == targets[name].argmax(dim=1)).float().mean() > 0.95
    assert not columns["rare"].any() and not columns["mismatch"].any()


def test_it_begins_with_the_ridge_over_both_sides():
    rng, count = np.random.default_rng(2), 80
    task = MultiLabel(name="look", labels=["dark", "bright"])
    wide = WidePart([task], 16, PREPROCESS.vocab_size, 64)
    terms = sparse.random(count, wide.terms.rows, 2e-4, "csr", rng=rng)
    images = np.zeros((count, FEATURES))
    images[:, :6] = rng.normal(size=(count, 6))
    targets = (images[:, :2] + rng.normal(size=(count, 2)) > 0).astype(np.float32)
    fit_tasks(wide, Features(terms, images), [(task, targets)])
    share = wide.title_share.item()
    x = np.concatenate([share * terms.toarray(), (1 - share) * images], axis=1)
    kernel, y = x @ x.T, targets - targets.mean(axis=0)
    size = kernel.diagonal().mean()
    best = ridge(kernel / size, targets)
    assert best and 0 < share < 0.5
    expected = kernel / size @ np.linalg.solve(kernel / size + best.strength * np.eye(count), y)
    title = wide.boost * torch.from_numpy(terms.toarray()).float() @ wide.words.weight
    image = wide.boost * torch.from_numpy(images).float() @ wide.to_logits.weight.T
    found = wide.weigh(Wide(title, image, image), torch.full((count, 1), 0.5)).detach().numpy()
    sharpness = sharpest(task, best.told_NL, targets)
    np.testing.assert_allclose(found, sharpness * expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("task", [SingleLabel(name="a", labels=["x", "y"]), MultiLabel(name="a", labels=["x", "y"])])
def test_what_is_told_surely_is_sharp_and_noise_is_not(task):
    rng = np.random.default_rng(3)
    targets = np.eye(2)[rng.integers(0, 2, 200)]
    sure, noise = targets - 0.5, rng.normal(0, 0.3, (200, 2))
    assert sharpest(task, sure, targets) >= 24 and sharpest(task, noise, targets) == 1
