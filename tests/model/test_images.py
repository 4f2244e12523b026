"""The fast JPEG decoder: the pixels and the verdicts of Pillow, whatever the bytes (matrix rows I3, I10, I13)."""

from __future__ import annotations

import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.preprocessing import encode_jpeg, photograph
from model import images as pictures
from model.config import PreprocessConfig
from model.image_header import Header, inspect
from model.images import decode_image, decode_pixels, image_to_pixels

CONFIG = PreprocessConfig()
SUBSAMPLINGS = ["4:2:0", "4:2:2", "4:4:4"]


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each decoder has delivered a picture."""
    counts: Counter[str] = Counter()
    fast, slow = pictures._decode_sound_jpeg, pictures._decode_by_pillow

    def count_fast(header: Header, data: bytes) -> np.ndarray | None:
        pixels = fast(header, data)
        counts["fast"] += pixels is not None
        return pixels

    def count_slow(header: Header, data: bytes) -> np.ndarray:
        counts["Pillow"] += 1
        return slow(header, data)

    monkeypatch.setattr(pictures, "_decode_sound_jpeg", count_fast)
    monkeypatch.setattr(pictures, "_decode_by_pillow", count_slow)
    return counts


def verdict(decode, data: bytes) -> str | np.ndarray:
    try:
        return np.asarray(decode(data, CONFIG))
    except ValueError as error:
        return str(error)


def corrupt(data: bytes, random: np.random.Generator) -> bytes:
    """One to eight bytes changed, taken out or put in; one time in four the end is cut off as well."""
    damaged = bytearray(data)
    for _ in range(random.integers(1, 9)):
        at = int(random.integers(len(damaged) if random.random() < 0.5 else min(700, len(damaged))))
        match random.integers(3):
            case 0:
                damaged[at] = random.integers(256)
            case 1:
                del damaged[at : at + int(random.integers(1, 5))]
            case _:
                damaged[at:at] = random.bytes(int(random.integers(1, 5)))
    return bytes(damaged[: int(random.integers(len(damaged)))] if random.random() < 0.25 else damaged)


def sources() -> list[bytes]:
    """Small JPEGs of every kind that the fast decoder takes, and one with an EXIF block."""
    image, exif = photograph(72, 56), Image.Exif()
    exif[0x0112] = 1
    kinds = [{"subsampling": s, "progressive": p} for s in SUBSAMPLINGS for p in (False, True)]
    kinds += [{"keep_rgb": True}, {"restart_marker_blocks": 4}, {"exif": exif.tobytes()}, {"optimize": True}]
    return [encode_jpeg(image, quality=85, **kind) for kind in kinds]


@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (17, 9), (300, 200), (641, 479)])
def test_an_ordinary_jpeg_is_decoded_fast_to_pillows_pixels(size, progressive, subsampling, decoders):
    data = encode_jpeg(photograph(*size), quality=90, subsampling=subsampling, progressive=progressive)
    pixels = decode_pixels(data, CONFIG)
    assert decoders == {"fast": 1}
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


def test_rgb_inside_a_jpeg_and_restart_markers(decoders):
    for options in ({"keep_rgb": True}, {"restart_marker_rows": 1}, {"optimize": True}, {"quality": 30}):
        data = encode_jpeg(photograph(200, 120), **options)
        np.testing.assert_array_equal(decode_pixels(data, CONFIG), np.asarray(Image.open(io.BytesIO(data))))
    assert decoders == {"fast": 4}


def test_I10_I13_grey_cmyk_and_turned_jpegs_have_pillows_pixels(decoders):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = photograph(96, 64)
    rotated = encode_jpeg(image, exif=exif.tobytes())
    for data in (rotated, encode_jpeg(image.convert("L")), encode_jpeg(image.convert("CMYK"))):
        np.testing.assert_array_equal(decode_pixels(data, CONFIG), np.asarray(decode_image(data, CONFIG)))
    assert decode_pixels(rotated, CONFIG).shape == (96, 64, 3)
    assert decoders == {"fast": 4, "Pillow": 3}


def test_I3_every_cut_is_found():
    for data in (encode_jpeg(photograph(60, 40)), encode_jpeg(photograph(60, 40), progressive=True)):
        for cut in range(3, len(data)):
            assert verdict(decode_pixels, data[:cut]).startswith("IMG_TRUNCATED"), cut


def test_where_the_fast_decoder_warns_pillow_decides(decoders):
    """A restart marker of the wrong number: both decoders go on, and the fast one says so."""
    data = encode_jpeg(photograph(300, 200), restart_marker_rows=1)
    damaged = data.replace(b"\xff\xd1", b"\xff\xd5", 1)
    assert damaged != data
    np.testing.assert_array_equal(decode_pixels(damaged, CONFIG), np.asarray(Image.open(io.BytesIO(damaged))))
    assert decoders == {"fast": 0, "Pillow": 1}


def test_a_header_that_is_read_in_two_ways_is_left_to_pillow():
    """Only the size that was held against the limits is ever allocated."""
    data = encode_jpeg(photograph(64, 48))
    header = inspect(data, CONFIG)
    assert pictures._decode_sound_jpeg(header, data) is not None
    assert pictures._decode_sound_jpeg(replace(header, width=48, height=64), data) is None


@pytest.mark.parametrize("source", range(10))
def test_I3_damaged_jpegs_get_pillows_verdict(source):
    random, data = np.random.default_rng(source), sources()[source]
    for attempt in range(60):
        damaged = corrupt(data, random)
        ours, pillows = verdict(decode_pixels, damaged), verdict(decode_image, damaged)
        if isinstance(ours, str) and ours.endswith("ends too early"):
            continue  # Pillow fills the rest without a word
        if isinstance(pillows, str):
            assert ours == pillows and pillows.startswith("IMG_"), attempt
        else:
            np.testing.assert_array_equal(ours, pillows, err_msg=str(attempt))


def test_threads_give_the_same_pixels():
    pictures_of_one_size = [encode_jpeg(photograph(500, 400, seed)) for seed in range(6)]
    expected = [image_to_pixels(data, CONFIG) for data in pictures_of_one_size]
    with ThreadPoolExecutor(4) as pool:
        for pixels, alone in zip(
            pool.map(image_to_pixels, pictures_of_one_size * 4, [CONFIG] * 24), expected * 4, strict=True
        ):
            np.testing.assert_array_equal(pixels, alone)
