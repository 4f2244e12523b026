"""Times image preprocessing against Pillow alone, in one run, and counts the samples that differ.

    python -m bench.preprocessing

Pillow alone means the same checks, Pillow's decoder and Pillow's resize: what `decode_image` and
`pillow_resize_and_crop` do. Times are CPU time of one thread, the two taking turns. Exit status 1: an image is
outside the tolerance.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from bench.harness import Report, in_turn, percentiles, seconds_of
from cma_clip.command import command
from cma_clip.tables import markdown
from model.config import PreprocessConfig
from model.images import decode_image, image_to_pixels
from model.resize import pillow_resize_and_crop

CONFIG = PreprocessConfig()
LARGEST_DIFFERENCE, LARGEST_SHARE = 1, 0.005
SIZES = ((300, 300), (640, 480), (1000, 1000), (2000, 1500), (4000, 3000))
ENCODINGS = (
    {"quality": 85, "subsampling": "4:2:0"},
    {"quality": 92, "subsampling": "4:4:4"},
    {"quality": 85, "subsampling": "4:2:0", "progressive": True},
)
COLUMNS = ("image", "KB", "Pillow ms", "ours ms", "p20 to p80", "ratio", "differ", "by")


class Difference(NamedTuple):
    """Samples that differ from Pillow's: their share in 0..1 and the largest difference in grey levels."""

    share: float
    largest: int

    @property
    def tolerable(self) -> bool:
        return self.largest <= LARGEST_DIFFERENCE and self.share <= LARGEST_SHARE


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Colour that varies slowly, finer detail on it, and a camera's noise."""
    random = np.random.default_rng(seed)
    values = 128 + random.normal(0, 4, (height, width, 3)).astype(np.float32)
    for cell, contrast in ((160, 70), (40, 35), (10, 18)):
        coarse = random.normal(0, contrast, (3, height // cell + 2, width // cell + 2)).astype(np.float32)
        for channel, plane in enumerate(coarse):
            values[..., channel] += np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def encode_jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def pillow_pixels(data: bytes) -> np.ndarray:
    return np.asarray(pillow_resize_and_crop(decode_image(data, CONFIG), CONFIG.image_size))


def our_pixels(data: bytes) -> np.ndarray:
    return image_to_pixels(data, CONFIG)


def difference(data: bytes) -> Difference:
    levels = np.abs(our_pixels(data).astype(int) - pillow_pixels(data))
    return Difference(float((levels > 0).mean()), int(levels.max()))


def measure(name: str, data: bytes, rounds: int) -> dict[str, Any]:
    """CPU milliseconds of each rival, of which the first round does not count."""
    rivals = {"Pillow": pillow_pixels, "ours": our_pixels}
    turns = {rival: partial(seconds_of, partial(pixels, data), time.thread_time) for rival, pixels in rivals.items()}
    times = {rival: percentiles([1000 * s for s in taken[1:]]) for rival, taken in in_turn(turns, rounds + 1).items()}
    return {"image": name, "bytes": len(data), **times, "differ": difference(data)._asdict()}


def table(result: dict[str, Any]) -> str:
    lines = []
    for r in result["rows"]:
        pillow, ours, differ = r["Pillow"], r["ours"], Difference(**r["differ"])
        cells = [r["image"], f"{r['bytes'] / 1024:.0f}", f"{pillow['median']:.2f}", f"{ours['median']:.2f}"]
        cells += [f"{ours['p20']:.2f} to {ours['p80']:.2f}", f"{pillow['median'] / ours['median']:.2f}"]
        lines.append([*cells, f"{differ.share:.3%}", differ.largest])
    return markdown(COLUMNS, lines)


def draw(result: dict[str, Any], figure: Figure) -> None:
    """How many times as fast as Pillow, image by image."""
    ratios = {r["image"]: r["Pillow"]["median"] / r["ours"]["median"] for r in result["rows"]}
    axes = figure.subplots()
    axes.barh(list(ratios), list(ratios.values()))
    axes.set_xlabel("Pillow's time / ours")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="time image preprocessing against Pillow alone")
    parser.add_argument("--rounds", type=int, default=21, help="repetitions of an image")
    parser.add_argument("--largest", type=int, default=4000, help="leave out images wider than that")
    parser.add_argument("--output", type=Path, help="directory for the results (runs/bench/preprocessing)")
    args = parser.parse_args(arguments)
    cases = [(size, encoding) for size in SIZES if size[0] <= args.largest for encoding in ENCODINGS]
    with Report("preprocessing", args.output, table, draw) as report:
        for (width, height), encoding in tqdm(cases, disable=None):
            kind = f"{encoding['subsampling']} q{encoding['quality']}{' progressive' * ('progressive' in encoding)}"
            data = encode_jpeg(photograph(width, height), **encoding)
            report.add(measure(f"{width} x {height} {kind}", data, args.rounds))
        tolerable = all(Difference(**row["differ"]).tolerable for row in report.result["rows"])
        report.save(verdict={"every image is within the tolerance": tolerable})
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
