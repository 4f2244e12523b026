"""The fast resize against Pillow's: at most 1 grey level on at most 0.5 % of the samples (matrix rows I14, I16)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import Compose

from bench.preprocessing import encode_jpeg, photograph
from model import resize
from model.resize import pillow_resize_and_crop, resize_and_crop

SIZE = 224
LANDSCAPE = [(300, 300), (225, 225), (640, 480), (447, 449), (448, 448), (449, 450), (1000, 1000), (1201, 799)]
UPSCALED = [(223, 223), (90, 70), (70, 90), (17, 31), (31, 17), (2, 2), (1, 2), (3, 2)]
EXTREME = [(3000, 224 + 1), (900, 60), (960, 60), (299, 598), (225, 450)]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each pass computed in 16 bits, in their order."""
    passes, scale = [], resize._scale

    def record(*arguments, wide):
        passes.append(wide)
        return scale(*arguments, wide=wide)

    monkeypatch.setattr(resize, "_scale", record)
    return passes


def check(image: Image.Image, size: int = SIZE) -> float:
    """The share of samples that differ from Pillow's, found to be within the tolerance."""
    ours, pillows = resize_and_crop(np.asarray(image), size), np.asarray(pillow_resize_and_crop(image, size))
    assert ours.shape == (size, size, 3) and ours.dtype == np.uint8
    difference = np.abs(ours.astype(int) - pillows)
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.005
    return float((difference > 0).mean())


@pytest.mark.parametrize("shape", LANDSCAPE + UPSCALED + EXTREME)
def test_within_one_grey_level_of_pillow(shape, kernels):
    check(photograph(*shape))
    assert kernels[-1] and len(kernels) > 1


@pytest.mark.parametrize("size", [32, 64, 336])
def test_other_sizes(size):
    for shape in ((500, 400), (401, 500), (33, 65), (64, 100)):
        check(photograph(*shape), size)


@pytest.mark.parametrize("shape", UPSCALED + [(300, 300), (447, 640)])
def test_below_half_the_scale_sixteen_bits_are_all_but_exact(shape):
    assert check(photograph(*shape)) < 0.0005


def test_the_eight_bit_kernel_takes_large_pictures_in_strips(kernels):
    check(photograph(1400, 1100))
    assert kernels == [False, False, False, True]
    assert resize.ROWS_AT_A_TIME == 512


def test_strips_change_nothing(monkeypatch):
    pixels = np.asarray(photograph(700, 650))
    whole = resize_and_crop(pixels, SIZE)
    for rows in (1, 7, 300):
        monkeypatch.setattr(resize, "ROWS_AT_A_TIME", rows)
        np.testing.assert_array_equal(resize_and_crop(pixels, SIZE), whole)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (300, 700), (100, 201), (224, 300), (300, 224)])
def test_I14_what_is_left_to_pillow_is_pillows(shape, kernels):
    """Very long pictures, tall ones, of which Pillow versions differ, and those that are only cut."""
    image = photograph(*shape)
    expected = np.asarray(pillow_resize_and_crop(image, SIZE))
    if shape == (1, 1):
        check(image)
    else:
        np.testing.assert_array_equal(resize_and_crop(np.asarray(image), SIZE), expected)
        assert not kernels


@pytest.mark.parametrize("value", [0, 1, 127, 128, 254, 255])
@pytest.mark.parametrize("shape", [(300, 300), (1000, 700), (100, 80)])
def test_flat_pictures_stay_as_they_are(value, shape):
    pixels = np.full((*shape, 3), value, np.uint8)
    assert (resize_and_crop(pixels, SIZE) == value).all()


@pytest.mark.parametrize("shape", [(448, 448), (600, 500)])
def test_overshoot_is_clipped_as_pillow_clips_it(shape):
    width, height = shape
    squares = np.kron(np.random.default_rng(0).integers(0, 2, (height // 20, width // 20, 3)), np.ones((20, 20, 1)))
    pixels = np.ascontiguousarray(255 * squares.astype(np.uint8))
    ours = resize_and_crop(pixels, SIZE)
    difference = np.abs(ours.astype(int) - np.asarray(pillow_resize_and_crop(Image.fromarray(pixels), SIZE)))
    assert difference.max() <= 1 and ours.min() == 0 and ours.max() == 255


def test_the_sixteen_bit_kernel_rounds_every_sum_once():
    """Half of v + (v + 1) lies between two grey levels: Pillow and we round it up."""
    columns = np.arange(256, dtype=np.uint8)
    pixels = np.repeat(np.repeat(columns[None, :, None], 2, 0), 3, 2)
    halves = resize._scale(pixels, (256, 1), (0.0, 256.0), (0.0, 2.0), wide=True)
    np.testing.assert_array_equal(halves[0], np.repeat(columns[:, None], 3, 1))
    pixels[1, :-1] += 1
    halves = resize._scale(pixels, (256, 1), (0.0, 256.0), (0.0, 2.0), wide=True)
    np.testing.assert_array_equal(halves[0][:-1, 0], columns[:-1] + 1)


@pytest.mark.parametrize("shape", [(224, 224), (90, 70), (1000, 333), (333, 1000), (225, 224), (17, 200), (1, 5)])
def test_pillows_path_equals_open_clips_transform(shape):
    reference = Compose(image_transform(SIZE, is_train=False).transforms[:3])
    jpeg = encode_jpeg(photograph(*shape), quality=92)
    expected = np.asarray(reference(Image.open(io.BytesIO(jpeg))))
    ours = pillow_resize_and_crop(Image.open(io.BytesIO(jpeg)), SIZE)
    np.testing.assert_array_equal(np.asarray(ours), expected)
