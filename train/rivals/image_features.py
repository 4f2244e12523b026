"""What an image shows, as numbers that need no training: colours, edges, textures and a thumbnail.

The textbook's: colour histograms on a spatial grid, histograms of oriented gradients (Dalal and Triggs 2005), and log
power spectra over frequency and direction.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from model.image_statistics import (
    CELLS,
    COLOR_LEVELS,
    DIRECTIONS,
    FLAT,
    LONGER,
    NO_POWER,
    RINGS,
    SECTORS,
    WINDOWS,
    polar_bins,
)

# B batch, H and W image size, G cells along a side, L values of a cell, F features

COLORS = COLOR_LEVELS**3
COLOR_CELLS = 2
GRAY = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255


def image_features(pixels_BHWC: np.ndarray) -> np.ndarray:
    """All of FEATURES side by side, float32 [B, F].

    Args:
        pixels_BHWC: uint8, H = W, a multiple of 8 and at least 64.
    """
    parts = (feature(pixels_BHWC).reshape(len(pixels_BHWC), -1) for feature in FEATURES.values())
    return np.concatenate(list(parts), axis=1, dtype=np.float32)


def color_histogram(pixels_BHWC: np.ndarray) -> np.ndarray:
    """Share of each of 64 colours in the image and in its quarters, as its root (Hellinger's kernel): [B, 5, 64]."""
    red, green, blue = np.moveaxis((pixels_BHWC // (256 // COLOR_LEVELS)).astype(int), 3, 0)
    quarters = _cell_sums((red * COLOR_LEVELS + green) * COLOR_LEVELS + blue, COLORS, COLOR_CELLS)
    counts = np.concatenate([quarters.sum(axis=1, keepdims=True), quarters], axis=1)
    return np.sqrt(counts / counts.sum(axis=2, keepdims=True))


def gradient_histogram(pixels_BHWC: np.ndarray) -> np.ndarray:
    """Strength of edges by direction in each cell, over that of the 3 x 3 cells around it: [B, G * G, directions].

    Direction 0 is a gradient along x, as at an upright edge. The channel with the strongest gradient counts.
    """
    slopes = np.gradient(pixels_BHWC.astype(np.float32) / 255, axis=(1, 2))
    down, right = _of_the_strongest(*map(np.asarray, slopes))
    place = (np.arctan2(down, right) % np.pi) * (DIRECTIONS / np.pi)
    below, strength = np.floor(place).astype(int), np.hypot(down, right)
    cells = _cell_sums(below % DIRECTIONS, DIRECTIONS, CELLS, strength * (below + 1 - place))
    cells += _cell_sums((below + 1) % DIRECTIONS, DIRECTIONS, CELLS, strength * (place - below))
    cells /= pixels_BHWC[0, ..., 0].size / CELLS**2
    energy = (cells**2).sum(axis=2).reshape(-1, CELLS, CELLS)
    around = sliding_window_view(np.pad(energy, ((0, 0), (1, 1), (1, 1)), mode="edge"), (3, 3), axis=(1, 2))
    return cells / np.sqrt(around.mean(axis=(3, 4)) + FLAT).reshape(len(cells), -1, 1)


def spectrum(pixels_BHWC: np.ndarray) -> np.ndarray:
    """Log power by frequency (rings, rising) and direction (sectors): [B, windows, rings, sectors].

    Sector 0 holds waves along x, as upright stripes make them.
    """
    gray_BHW = pixels_BHWC.astype(np.float32) @ GRAY
    return np.stack([_window_spectrum(gray_BHW, side) for side in WINDOWS], axis=1)


def _window_spectrum(gray_BHW: np.ndarray, side: int) -> np.ndarray:
    step, hann = side // 2, np.hanning(side + 2)[1:-1].astype(np.float32)
    windows = sliding_window_view(gray_BHW, (side, side), axis=(1, 2))[:, ::step, ::step]
    centred = windows - windows.mean(axis=(3, 4), keepdims=True)
    bins = polar_bins(side).transpose(1, 0, 2).reshape(-1, RINGS * SECTORS)  # along y first, as rfft2 has them
    power = np.abs(np.fft.rfft2(centred * np.outer(hann, hann))) ** 2
    means = power.mean(axis=(1, 2)).reshape(len(gray_BHW), -1) @ bins
    return np.log(means + NO_POWER).reshape(-1, RINGS, SECTORS)


def thumbnail(pixels_BHWC: np.ndarray) -> np.ndarray:
    """Mean colours of cells, 0..1: [B, G, G, 3]."""
    batch, height, width, channels = pixels_BHWC.shape
    side = CELLS
    cells = pixels_BHWC.reshape(batch, side, height // side, side, width // side, channels)
    return cells.mean(axis=(2, 4)) / 255


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "color_histogram": color_histogram,
    "gradient_histogram": gradient_histogram,
    "spectrum": spectrum,
    "thumbnail": thumbnail,
}


def _of_the_strongest(down_BHWC: np.ndarray, right_BHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the channel where it is longest, [B, H, W] each; of nearly equal ones that of the first."""
    down, right = down_BHWC[..., 0], right_BHWC[..., 0]
    longest = down**2 + right**2
    for channel in range(1, down_BHWC.shape[3]):
        own_down, own_right = down_BHWC[..., channel], right_BHWC[..., channel]
        squared = own_down**2 + own_right**2
        is_longer = squared > LONGER * longest
        down, right = np.where(is_longer, own_down, down), np.where(is_longer, own_right, right)
        longest = np.where(is_longer, squared, longest)
    return down, right


def _cell_sums(index_BHW: np.ndarray, bins: int, side: int, weight_BHW: np.ndarray | None = None) -> np.ndarray:
    """A histogram of 0..bins - 1 in each of side x side equal cells, float64 [B, side * side, bins]."""
    batch, height, width = index_BHW.shape
    row, column = np.arange(height) * side // height, np.arange(width) * side // width
    cell_BHW = np.arange(batch)[:, None, None] * side**2 + row[:, None] * side + column
    weights = None if weight_BHW is None else weight_BHW.ravel()
    counts = np.bincount((cell_BHW * bins + index_BHW).ravel(), weights, minlength=batch * side**2 * bins)
    return counts.reshape(batch, side**2, bins)
