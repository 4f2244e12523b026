"""Features of drawn images against values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from train.rivals.image_features import (
    FEATURES,
    color_histogram,
    gradient_histogram,
    image_features,
    spectrum,
    thumbnail,
)

SIDE = 64
COLUMN = np.arange(SIDE)
RED, BLUE = 3 * 16, 3  # of 4 levels a channel


def plain(color: tuple[int, int, int]) -> np.ndarray:
    return np.full((1, SIDE, SIDE, 3), color, dtype=np.uint8)


def upright(values: np.ndarray) -> np.ndarray:
    """A gray image whose columns have these values."""
    return np.broadcast_to(values[None, None, :, None], (1, SIDE, SIDE, 3)).astype(np.uint8)


def turned(pixels: np.ndarray) -> np.ndarray:
    return pixels.swapaxes(1, 2)


def test_a_red_image_with_a_blue_quarter():
    pixels = plain((255, 0, 10))
    pixels[:, :32, 32:] = (20, 0, 255)
    whole, *quarters = color_histogram(pixels)[0]
    assert {bin: value for bin, value in enumerate(whole) if value} == {RED: pytest.approx(0.75**0.5), BLUE: 0.5}
    assert [quarter.argmax() for quarter in quarters] == [RED, BLUE, RED, RED]
    assert all(quarter.sum() == 1 for quarter in quarters)


@pytest.mark.parametrize(("is_turned", "direction"), [(False, 0.0), (True, 4.5)])
def test_an_edge_counts_in_its_direction_and_place(is_turned: bool, direction: float):
    edge = upright(np.where(COLUMN < 20, 0, 255))  # between columns 19 and 20: cell 2
    cells = gradient_histogram(turned(edge) if is_turned else edge)[0].reshape(8, 8, 9)
    if is_turned:
        cells = cells.swapaxes(0, 1)
    assert not cells[:, [0, 1, 3, 4, 5, 6, 7]].any()
    strength = cells[:, 2]
    # The strength of a cell over the root of the mean square of the nine around it; 1e-4 hardly counts.
    energy = {0.0: 1.0, 4.5: 0.5}[direction]  # half in each of two directions: 2 * (1 / 2)**2
    expected = np.where(np.arange(9) == direction, 1.0, 0.0) if direction == 0 else np.isin(np.arange(9), (4, 5)) / 2
    np.testing.assert_allclose(strength, np.tile(expected / (energy / 3) ** 0.5, (8, 1)), rtol=0.03)


def test_an_edge_between_colours_of_one_brightness_is_an_edge():
    edge = plain((200, 100, 0))
    edge[:, :, 32:] = (100, 200, 0)
    assert gradient_histogram(edge)[..., 0].max() > 1 and not gradient_histogram(plain((200, 100, 0))).any()


def test_stripes_stand_in_the_spectrum_and_a_plain_image_has_none():
    stripes = upright(128 + 100 * np.cos(2 * np.pi * COLUMN / 4))  # a quarter of a cycle a pixel
    assert np.ptp(spectrum(plain((9, 9, 9)))) < 1e-3
    for window in spectrum(stripes)[0]:
        ring, sector = np.unravel_index(window.argmax(), window.shape)
        assert sector == 0 and window[ring, 0] > window[:, 4].max() + 3
    rings = [spectrum(upright(128 + 100 * np.cos(2 * np.pi * COLUMN / period)))[0, 0].max(axis=1) for period in (16, 4)]
    assert rings[0].argmax() < rings[1].argmax()
    np.testing.assert_allclose(spectrum(turned(stripes))[0, :, :, 4], spectrum(stripes)[0, :, :, 0], atol=1e-3)


def test_the_thumbnail_has_the_mean_of_each_cell():
    pixels = plain((255, 0, 51))
    pixels[:, :4, :8] = 0
    small = thumbnail(pixels)[0]
    np.testing.assert_allclose(small[0, 0], [0.5, 0, 0.1])
    np.testing.assert_allclose(small[7, 7], [1, 0, 0.2])


def test_each_image_by_itself():
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    together = image_features(pixels)
    assert together.dtype == np.float32 and np.isfinite(together).all() and len(FEATURES) == 4
    np.testing.assert_allclose(together, np.concatenate([image_features(one[None]) for one in pixels]), rtol=1e-5)
