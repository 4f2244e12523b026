"""Times picture preprocessing against Pillow alone, in one run, and counts the samples that differ.

    python -m bench.preprocessing

Pillow alone means the same checks, Pillow's decoder and Pillow's resize: what `decode_image` and
`pillow_resize_and_crop` do. Times are CPU time of one thread, the two taking turns. Exit status 1: a picture is
outside the tolerance.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

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
HEADER = ("picture", "KB", "Pillow ms", "ours ms", "p20 to p80", "ratio", "differ", "by")


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


def cpu_ms(compute: Callable[[bytes], np.ndarray], data: bytes) -> float:
    started = time.thread_time()
    compute(data)
    return 1000 * (time.thread_time() - started)


def row(name: str, data: bytes, rounds: int) -> tuple[list[str], bool]:
    """One line of the table, and whether the picture is within the tolerance."""
    times = np.array([(cpu_ms(pillow_pixels, data), cpu_ms(our_pixels, data)) for _ in range(rounds + 1)][1:])
    pillow, ours = np.median(times, axis=0)
    low, high = np.percentile(times[:, 1], (20, 80))
    differ = difference(data)
    numbers = [f"{len(data) / 1024:.0f}", f"{pillow:.2f}", f"{ours:.2f}", f"{low:.2f} to {high:.2f}"]
    return [name, *numbers, f"{pillow / ours:.2f}", f"{differ.share:.3%}", str(differ.largest)], differ.tolerable


def pictures_per_second(compute: Callable[[bytes], np.ndarray], data: bytes, threads: int, count: int) -> float:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(compute, [data] * threads))
        started = time.perf_counter()
        list(pool.map(compute, [data] * count))
        return count / (time.perf_counter() - started)


def threads_table(count: int) -> list[list[str]]:
    """Pictures of 1000 x 1000 a second, by the wall clock: what runs without the GIL gains by a second thread."""
    data = encode_jpeg(photograph(1000, 1000), **ENCODINGS[0])
    lines = [["threads", "Pillow, 1/s", "ours, 1/s"]]
    for threads in (1, 2):
        rates = [
            statistics.median(pictures_per_second(compute, data, threads, count) for _ in range(3))
            for compute in (pillow_pixels, our_pixels)
        ]
        lines.append([str(threads), *(f"{rate:.0f}" for rate in rates)])
    return lines


def markdown(lines: list[list[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *body])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=21, help="repetitions of a picture")
    parser.add_argument("--largest", type=int, default=4000, help="leave out pictures wider than that")
    options = parser.parse_args()
    parts = ("pillow", "simplejpeg", "cykooz-resizer", "numpy")
    print(
        ", ".join([platform.processor() or platform.machine(), *(f"{part} {version(part)}" for part in parts)]) + "\n"
    )
    cases = [(size, encoding) for size in SIZES if size[0] <= options.largest for encoding in ENCODINGS]
    lines, tolerable = [list(HEADER)], True
    for (width, height), encoding in tqdm(cases, disable=not sys.stderr.isatty()):
        kind = f"{encoding['subsampling']} q{encoding['quality']}{' progressive' if 'progressive' in encoding else ''}"
        data = encode_jpeg(photograph(width, height), **encoding)
        line, within = row(f"{width} x {height} {kind}", data, options.rounds)
        lines.append(line)
        tolerable &= within
    print(markdown(lines) + "\n\n" + markdown(threads_table(4 * options.rounds)))
    return 0 if tolerable else 1


if __name__ == "__main__":
    sys.exit(main())
