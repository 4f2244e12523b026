"""The wide part fitted: against an independent solver, by what halves tell of each other, and where nothing is told."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from PIL import Image
from scipy import sparse
from tiny import tiny_config

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.clip_towers import create_clip, preprocess_config, text_mask
from model.image_statistics import FEATURES
from model.preprocess import TitleTokenizer
from model.tasks import MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from model.wide import WidePart
from train import fit_wide as fitting
from train import kernel_ridge
from train.data import ProductDataset
from train.fit_wide import FEWEST, STEPS, fit_tasks, fit_wide, held_out, prior, solve
from train.kernel_ridge import Features, by_cholesky

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


def fitted(products: ProductDataset) -> WidePart:
    wide = WidePart(products.tasks, 16, PREPROCESS.vocab_size, 64)
    fit_wide(wide, products)
    return wide


def said(
    wide: WidePart, products: ProductDataset, without: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Logits and targets of each task."""
    batch = products.collate([products[n] for n in range(len(products))])
    if without is not None:
        batch.present_B2[:, without] = False
    inputs = batch.input_ids_BT, text_mask(batch.input_ids_BT), batch.pixels_BHWC, batch.present_B2
    logits, targets = (
        products.tasks.split_logits(wide(*inputs).logits_BC.detach()),
        products.tasks.split(batch.targets_BC),
    )
    return {task.name: part for task, part in logits}, {task.name: part for task, part in targets}


def test_it_knows_what_titles_say_and_what_images_show(tmp_path: Path):
    products = written(tmp_path / "data")
    wide = fitted(products)
    logits, targets = said(wide, products)
    for name in ("season", "look"):
        assert (logits[name].argmax(dim=1) == targets[name].argmax(dim=1)).float().mean() > 0.95
    torch.testing.assert_close(logits["luck"].mean(dim=0).softmax(dim=0), targets["luck"].mean(dim=0), rtol=0.1, atol=0)
    assert not logits["rare"].any(), "too few labels"
    by_title, by_image = (wide.words.norm(dim=0), wide.statistics_to_logits.norm(dim=1))
    season, look = wide.spans[0], wide.spans[1]
    assert (by_title[season] > 5 * by_image[season]).all() and (by_image[look] > 5 * by_title[look]).all()
    for side, telling in ((0, "look"), (1, "season")):
        logits, _ = said(wide, products, without=side)
        assert (logits[telling].argmax(dim=1) == targets[telling].argmax(dim=1)).float().mean() > 0.95


def test_what_disagrees_is_a_mismatch(tmp_path: Path):
    rng, products = np.random.default_rng(0), []
    tasks = TaskSet([SingleLabel(name="season", labels=SEASONS[:2])])
    for n in range(COUNT):
        season = SEASONS[n % 2]
        products.append(Product(f"p{n}", picture(rng, n % 2 == 0), f"a {season} dress", {"season": season}, "train"))
    write_rows(NewDataset(directory=tmp_path / "data", tasks=tasks, source="test", settings={}), products)
    split = ProductDataset(tmp_path / "data", "train", PREPROCESS, TOKENIZER, tasks=tasks.with_mismatch())
    wide, batch = fitted(split), split.collate([split[n] for n in range(COUNT)])
    mask, others = text_mask(batch.input_ids_BT), batch.input_ids_BT.roll(1, dims=0)
    own, wrong = (wide(ids, mask, batch.pixels_BHWC, batch.present_B2) for ids in (batch.input_ids_BT, others))
    assert own.logits_BC[:, 2].max() < 0 < wrong.logits_BC[:, 2].min()


def test_without_complete_products_nothing_is_known(tmp_path: Path):
    wide = fitted(written(tmp_path / "data", titles=False, images=False))
    assert not wide.words.any() and not wide.statistics_to_logits.any() and not wide.intercepts.any()


@pytest.mark.parametrize(
    "task", [SingleLabel(name="a", labels=["x", "y", "z"]), MultiLabel(name="a", labels=["x", "y", "z"])]
)
def test_the_last_step_is_near_what_scipy_finds(task):
    rng, count, strength = np.random.default_rng(1), 60, 0.3
    features = rng.normal(size=(count, 4)) / 2
    targets = np.eye(3)[(features[:, :3] + 0.3 * rng.normal(size=(count, 3))).argmax(axis=1)]
    kernel, y = torch.from_numpy(features @ features.T), torch.from_numpy(targets)
    frequent, with_one = prior(y), torch.from_numpy(np.column_stack([features, np.ones(count)]))
    times = 3 if task.several_labels else 1  # their losses are added

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(flat.reshape(5, 3), requires_grad=True)
        losses = task.loss(frequent + with_one @ weights, y, torch.ones(3, dtype=y.dtype)).sum() * times
        total = losses + strength / 2 * weights.square().sum()
        total.backward()
        return total.item(), weights.grad.numpy().ravel()

    best = scipy.optimize.minimize(objective, np.zeros(15), jac=True, method="BFGS", options={"gtol": 1e-8})
    expected = with_one @ torch.from_numpy(best.x.reshape(5, 3))
    steps = solve(task, by_cholesky(kernel), y, strength)
    assert len(steps) == len(STEPS)
    torch.testing.assert_close((kernel + 1) @ steps[-1], expected, rtol=0.05, atol=0.05)
    assert ((kernel + 1) @ steps[0] - expected).abs().max() > 0.5, "the first is far from it"


def test_the_first_step_is_ridge_regression_on_the_labels():
    rng, count, strength = np.random.default_rng(2), 40, 0.1
    task, targets = SingleLabel(name="a", labels=["x", "y"]), torch.from_numpy(np.eye(2)[rng.integers(0, 2, count)])
    kernel = torch.from_numpy(rng.normal(size=(count, 3)) @ np.eye(3))
    kernel = kernel @ kernel.T
    (weights,) = solve(task, by_cholesky(kernel), targets, strength, steps=1)
    left = 2 * (targets - prior(targets).softmax(dim=0))
    expected = torch.linalg.solve(kernel + 1 + 2 * strength * torch.eye(count, dtype=kernel.dtype), left)
    torch.testing.assert_close(weights, expected)


def test_the_way_is_chosen_on_some_and_all_are_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held, fitted_to = [], []
    spied = {"held_out": held, "linear": fitted_to}
    for name, seen in spied.items():
        own = getattr(fitting, name)
        monkeypatch.setattr(fitting, name, lambda *a, own=own, seen=seen: (seen.append(len(a[2])), own(*a))[1])
    monkeypatch.setattr(fitting, "MEASURED_ON", 64)
    products = written(tmp_path / "data")
    fitted(products)
    assert set(held) == {64} and set(fitted_to) == {COUNT}
    fitted_to.clear()
    monkeypatch.setattr(fitting, "FITTED_TO", 100)
    fitted(products)
    assert set(fitted_to) == {100}


def test_halves_tell_what_is_to_be_told():
    rng, count = np.random.default_rng(3), 200
    truth = rng.integers(0, 2, count)
    targets, told = torch.from_numpy(np.eye(2)[truth]), (2.0 * truth - 1)[:, None]
    clear, noise = told + 0.1 * rng.normal(size=(count, 1)), rng.normal(size=(count, 1))
    task = SingleLabel(name="a", labels=["x", "y"])
    of_clear, of_noise = (held_out(task, torch.from_numpy(side @ side.T), targets) for side in (clear, noise))
    assert of_clear.explained > 0.9 and of_noise.explained < 0.05


def test_wrong_labels_end_a_fit_early():
    rng, count = np.random.default_rng(4), 300
    features = rng.normal(size=(count, 60))
    clean = features[:, :2].argmax(axis=1)
    kernel, steps = torch.from_numpy(features @ features.T / 60), []
    for wrong in (0.0, 0.4):
        truth = np.where(rng.random(count) < wrong, 1 - clean, clean)
        found = held_out(SingleLabel(name="a", labels=["x", "y"]), kernel, torch.from_numpy(np.eye(2)[truth]))
        steps.append((found.steps, found.scale))
    assert steps[1] < steps[0]


def test_terms_and_statistics_get_what_the_kernel_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel_ridge, "NEAR", 1e-5)
    rng, count = np.random.default_rng(2), 80
    task = MultiLabel(name="look", labels=["dark", "bright"])
    wide = WidePart(TaskSet([task]), 16, PREPROCESS.vocab_size, 64)
    terms = sparse.random(count, wide.terms.rows, 2e-4, "csr", np.float32, rng=rng)
    images = np.zeros((count, FEATURES), np.float32)
    images[:, :6] = rng.normal(size=(count, 6))
    targets = (images[:, :2] + rng.normal(size=(count, 2)) > 0).astype(np.float32)
    fit_tasks(wide, Features(terms, images), [(task, targets)])
    y, kernels = torch.from_numpy(targets), Features(terms, images).kernels()
    alone = [held_out(task, kernel, y) for kernel in kernels]
    title, image = (max(0.01, one.explained) for one in alone)
    share = title / (title + image)
    assert 0 < share < 0.5
    both = share**2 * kernels[0] + (1 - share) ** 2 * kernels[1]
    both = both / both.diagonal().mean()
    x_title, x_image = torch.from_numpy(terms.toarray()).float(), torch.from_numpy(images).float()
    by_title, by_image = x_title @ wide.words, x_image @ wide.statistics_to_logits.T
    found = (by_title[:, :2] + by_image[:, :2], by_title[:, 2:], by_image[:, 2:])
    for kernel, best, said, intercept in zip(
        (both, *kernels), (held_out(task, both, y), *alone), found, wide.intercepts, strict=True
    ):
        weights = best.scale * solve(task, by_cholesky(kernel), y, best.strength, best.steps)[-1] * (best.explained > 0)
        torch.testing.assert_close(intercept + said, (prior(y) + (kernel + 1) @ weights).float(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(wide.frequent, prior(y).float())
