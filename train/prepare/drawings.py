"""Drawings, and what each shows: the image to train on, its main colour, and a thumbnail to find its like by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops
from tqdm import tqdm

from dataset.parallel import ordered_map
from dataset.products import Reject
from model.config import PreprocessConfig
from model.images import decode_image
from train.prepare.apa_mini.images import jpeg

Source = TypeVar("Source")
Read = TypeVar("Read")

LIMITS = PreprocessConfig()
THUMBNAIL_SIDE = 16
SAMPLED_SIDE = 256
# Of Pillow's HSV bytes: hue 0..255 for a turn, first hue of each name; saturation and value 0..255.
HUES = {0: "red", 10: "orange", 28: "yellow", 46: "green", 120: "blue", 183: "purple", 243: "red"}
PAPER_VALUE, BLACK_VALUE, BROWN_VALUE = 230, 64, 170
PAPER_SATURATION, GREY_SATURATION = 26, 56
LEAST_INK, LEAST_SHARE = 0.005, 0.5
COLORS = ["black", "grey", "red", "orange", "brown", "yellow", "green", "blue", "purple", "mixed"]


@dataclass(frozen=True)
class DrawnImage:
    """A drawing as it was looked at.

    Attributes:
        encoded: JPEG, square.
        main_color: one of COLORS; None for a blank image.
        digest: of the pixels without margins.
        thumbnail: uint8 [THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3].
    """

    encoded: bytes
    main_color: str | None
    digest: bytes
    thumbnail: np.ndarray


def read_all(
    read: Callable[[Source], Read | Reject], drawings: Sequence[Source], workers: int, most_rejects: float, cure: str
) -> tuple[list[Read], list[Reject]]:
    """What can be read of every drawing, and what cannot, both in order; the same whatever `workers` is.

    Args:
        most_rejects: largest share of them, 0 to 1.
        cure: what to do where there are more.
    Raises:
        ValueError: there are; with the first one.
    """
    with ordered_map(ThreadPoolExecutor(workers), read, drawings, pending=4 * workers) as results:
        rows = list(tqdm(results, total=len(drawings), unit=" drawings", desc="reading", disable=None))
    rejects = [row for row in rows if isinstance(row, Reject)]
    if len(rejects) > most_rejects * len(rows):
        first = rejects[0]
        raise ValueError(
            f"{len(rejects)} of {len(rows)} drawings cannot be read, at most {100 * most_rejects:g}% may be bad;"
            f" {first.id}: {first.code}: {first.detail}; {cure}"
        )
    return [row for row in rows if not isinstance(row, Reject)], rejects


def look_at(data: bytes, side: int) -> DrawnImage:
    """Decode an encoded image once for all that is wanted of it.

    Args:
        side: of the square to train on, pixels.
    Raises:
        Refusal: it cannot be decoded.
    """
    image = trimmed(decode_image(data, LIMITS))
    small = np.asarray(in_square(image, THUMBNAIL_SIDE))
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
    return DrawnImage(jpeg(np.asarray(in_square(image, side))), main_color(image), digest, small)


def trimmed(image: Image.Image) -> Image.Image:
    """Without the white margins: some drawings lie in a corner of a large page. A blank one stays as it is."""
    box = ImageChops.invert(image).getbbox()
    return image.crop(box) if box else image


def in_square(image: Image.Image, side: int) -> Image.Image:
    """The whole image, as large as fits into the middle of a white square."""
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return square


def main_color(image: Image.Image) -> str | None:
    """The colour of at least half the ink, else "mixed".

    Ink is all that is not white or nearly so. Black is dark, grey is dull, brown is dark orange, pink counts as
    purple or, if it is nearer, as red.

    Returns:
        One of COLORS, or None if less than LEAST_INK of the image is ink.
    """
    # The nearest pixels: a mean of black and white at the edge of a line would count as grey.
    image = image.resize([min(length, SAMPLED_SIDE) for length in image.size], Image.Resampling.NEAREST)
    hue, saturation, value = np.moveaxis(np.asarray(image.convert("HSV")), 2, 0)
    ink = (saturation >= PAPER_SATURATION) | (value < PAPER_VALUE)
    if ink.sum() < LEAST_INK * ink.size:
        return None
    counts = np.bincount(_colors(hue[ink], saturation[ink], value[ink]), minlength=len(COLORS))
    most = int(counts.argmax())
    return COLORS[most] if counts[most] >= LEAST_SHARE * ink.sum() else "mixed"


def _colors(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Indices into COLORS of pixels [N]."""
    names = np.array([COLORS.index(name) for name in HUES.values()])
    found = names[np.searchsorted(list(HUES), hue, side="right") - 1]
    found[(found == COLORS.index("orange")) & (value < BROWN_VALUE)] = COLORS.index("brown")
    found[saturation < GREY_SATURATION] = COLORS.index("grey")
    found[value < BLACK_VALUE] = COLORS.index("black")
    return found
