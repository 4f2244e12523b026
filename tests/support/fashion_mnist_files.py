"""Small files in Fashion-MNIST's format, with drawn dresses, for tests that must not download."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

DRESS, OTHER_LABELS = 3, (0, 8)
OTHERS_PER_PART = 6


def write_fashion_mnist(directory: Path, train: int, test: int) -> None:
    """Write the four IDX files with `train` and `test` dresses, a few other garments between them."""
    directory.mkdir(parents=True, exist_ok=True)
    for seed, (part, dresses) in enumerate({"train": train, "t10k": test}.items()):
        rng = np.random.default_rng(seed)
        labels = rng.permutation([DRESS] * dresses + [*OTHER_LABELS] * (OTHERS_PER_PART // 2))
        images = np.stack([drawn_dress(rng) if label == DRESS else drawn_box(rng) for label in labels])
        write_idx(directory / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(directory / f"{part}-labels-idx1-ubyte.gz", labels)


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write unsigned bytes as gzip IDX: magic number, sizes, values."""
    header = np.array([0x800 + values.ndim, *values.shape], ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), compresslevel=1))


def drawn_dress(rng: np.random.Generator) -> np.ndarray:
    """Bodice, waist and flared skirt, grey on black, uint8 [28, 28]; no two alike."""
    row, column = np.mgrid[:28, :28]
    waist, shoulders, hem = rng.uniform(2.5, 4), rng.uniform(4, 6), rng.uniform(5, 10)
    bodice = waist + (shoulders - waist) * np.clip((10 - row) / 9, 0, 1)
    skirt = waist + (hem - waist) * np.clip((row - 10) / 16, 0, 1)
    inside = np.abs(column - 13.5) < np.where(row < 10, bodice, skirt)
    grey = rng.uniform(120, 220) + rng.normal(0, 6, (28, 28))
    return np.where(inside & (row > 0) & (row < 27), grey, 0).clip(0, 255).astype(np.uint8)


def drawn_box(rng: np.random.Generator) -> np.ndarray:
    """Not a dress: a bright box, uint8 [28, 28]."""
    image = np.zeros((28, 28), np.uint8)
    image[8:20, 4:24] = rng.integers(230, 256)
    return image
