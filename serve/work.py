"""What a product will cost, from the first bytes of its image: an estimate for the queue, not a check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from model.config import PreprocessConfig
from model.refusal import Code, Refusal

# A unit is what a pixel of a baseline JPEG costs, about 5 ns; an encoded byte is about four of them.
PRODUCT, BYTE = 100_000, 4
PIXEL = {"JPEG": 1, "PNG": 3, "GIF": 3, "BMP": 3, "WEBP": 4}
# Bytes of memory a pixel while it is decoded: a JPEG's is scaled from its own array, others are converted in between.
MEMORY = {"JPEG": 5, "PNG": 20, "GIF": 20, "BMP": 20, "WEBP": 20}
MOST_SEGMENTS = 64
# Markers that begin a JPEG's frame, where its size stands.
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class Work(NamedTuple):
    """What has to be done.

    Attributes:
        units: of time, of about 5 ns.
        memory: bytes at the same time.
    """

    units: int
    memory: int


def work_of(image: bytes, most_pixels: int) -> Work:
    """The cost of one product; takes microseconds whatever the bytes are.

    Args:
        most_pixels: more are refused by the header, which costs nothing.
    """
    name, pixels = _size(image)
    pixels = pixels if pixels <= most_pixels else 0
    units = PRODUCT + BYTE * len(image) + PIXEL.get(name, 0) * pixels
    return Work(units, len(image) + MEMORY.get(name, 0) * pixels)


def request_work(images: Sequence[bytes], config: PreprocessConfig) -> Work:
    """The cost of one request, a product a row. All rows together may cost what one product may.

    Raises:
        Refusal: IMG_TOO_MANY_PIXELS where several rows cost more than the largest image that is accepted.
    """
    rows = [work_of(image, config.max_pixels) for image in images]
    units = sum(row.units for row in rows)
    most = len(rows) * PRODUCT + BYTE * config.max_image_bytes + PIXEL["JPEG"] * config.max_pixels
    if len(rows) > 1 and units > most:
        share = f"{len(rows)} images of one request cost {units / most:.1f} times what the largest single one may"
        raise Refusal(Code.IMG_TOO_MANY_PIXELS, f"{share}; send fewer in a request")
    return Work(units, max(row.memory for row in rows))


def _size(data: bytes) -> tuple[str, int]:
    """Format and pixels as the header claims; no format and 0 where none is known."""
    if data.startswith(b"\xff\xd8"):
        return "JPEG", _jpeg_pixels(data)
    if data.startswith(b"\x89PNG"):
        return "PNG", _product(data, 16, 4, "big")
    if data.startswith(b"GIF8"):
        return "GIF", _product(data, 6, 2, "little")
    if data.startswith(b"BM"):
        return "BMP", abs(_number(data, 18, 4, "little", signed=True) * _number(data, 22, 4, "little", signed=True))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP", _webp_pixels(data)
    return "", 0


def _jpeg_pixels(data: bytes) -> int:
    position = 2
    for _ in range(MOST_SEGMENTS):
        marker = data[position + 1 : position + 2]
        if not marker or data[position] != 0xFF:
            break
        if marker[0] in JPEG_FRAMES:
            return _product(data, position + 5, 2, "big")
        position += 1 if marker[0] == 0xFF else 2 + _number(data, position + 2, 2, "big")
    return 0


def _webp_pixels(data: bytes) -> int:
    kind = data[12:16]
    if kind == b"VP8X":
        return (1 + _number(data, 24, 3, "little")) * (1 + _number(data, 27, 3, "little"))
    if kind == b"VP8L":
        bits = _number(data, 21, 4, "little")
        return (1 + (bits & 0x3FFF)) * (1 + (bits >> 14 & 0x3FFF))
    return (_number(data, 26, 2, "little") & 0x3FFF) * (_number(data, 28, 2, "little") & 0x3FFF)


def _product(data: bytes, start: int, width: int, order: str) -> int:
    """Two numbers that stand beside each other, multiplied."""
    return _number(data, start, width, order) * _number(data, start + width, width, order)


def _number(data: bytes, start: int, width: int, order: str, signed: bool = False) -> int:
    return int.from_bytes(data[start : start + width], order, signed=signed)  # type: ignore[arg-type]
