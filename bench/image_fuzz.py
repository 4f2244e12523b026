"""Mutated images of every format: each is decoded or refused with a code, and none costs much.

    python -m bench.image_fuzz --mutations 100000

Goes on where it was stopped (--output holds the number of the next mutation); a failure's bytes are kept beside it.
Exit status 1: an exception without a code, or a mutation that took more CPU time than the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms
from tqdm import tqdm

from bench.fuzzing import in_time
from bench.image_limits import encoded
from bench.preprocessing import encode_jpeg, photograph
from cma_clip.command import command
from cma_clip.files import write_atomically
from model.config import PreprocessConfig
from model.images import image_to_pixels
from model.refusal import Refusal

CONFIG = PreprocessConfig()
MOST_SECONDS = 1.0
KEEP_EVERY = 500  # mutations


def sources() -> list[bytes]:
    """Small images of every format and variant."""
    image, exif = photograph(72, 56), Image.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    jpegs: list[dict[str, object]] = [
        {"subsampling": s, "progressive": p} for s in ("4:2:0", "4:4:4") for p in (False, True)
    ]
    jpegs += [{"restart_marker_blocks": 4}, {"exif": exif.tobytes()}, {"icc_profile": profile}, {"comment": b"x" * 30}]
    found = [encode_jpeg(image, quality=85, **options) for options in jpegs]
    found += [encode_jpeg(image.convert(mode)) for mode in ("L", "CMYK")]
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        grey = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        found.append(encoded(grey if mode == "I;16" else image.convert(mode), "PNG", icc_profile=profile))
    found.append(encoded(image.convert("P"), "PNG", transparency=3, exif=exif.tobytes()))
    found += [encoded(image.convert(mode), "WEBP", lossless=flag) for mode in ("RGB", "RGBA") for flag in (0, 1)]
    frames = [photograph(30, 20, seed) for seed in range(3)]
    found += [encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "WEBP", "PNG")]
    return found + [encoded(image.convert(mode), "BMP") for mode in ("RGB", "P", "L", "1")]


def mutated(data: bytes, random: np.random.Generator) -> bytes:
    """One to eight places changed, taken out, put in or repeated; one time in six the end is cut off as well."""
    damaged = bytearray(data)
    for _ in range(random.integers(1, 9)):
        at = int(random.integers(len(damaged) if random.random() < 0.5 else min(200, len(damaged))))
        length = int(random.integers(1, 40))
        match random.integers(5):
            case 0:
                damaged[at] = random.integers(256)
            case 1:
                damaged[at : at + 4] = random.bytes(4)
            case 2:
                del damaged[at : at + length]
            case 3:
                damaged[at:at] = random.bytes(length)
            case _:
                damaged[at:at] = damaged[at : at + length]
    return bytes(damaged[: int(random.integers(len(damaged) + 1))] if random.random() < 1 / 6 else damaged)


def verdict(data: bytes) -> str:
    """`decoded`, the refusal's code, or what went wrong."""
    return in_time(lambda: _outcome(data), MOST_SECONDS, tries=3)


def _outcome(data: bytes) -> str:
    try:
        pixels = image_to_pixels(data, CONFIG)
    except Refusal as refusal:
        return str(refusal.code)
    except Exception as error:
        return f"no code: {type(error).__name__}"
    return "decoded" if pixels.shape == (CONFIG.image_size, CONFIG.image_size, 3) else f"shape {pixels.shape}"


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="mutate images of every format and decode them")
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("runs/bench/image_fuzz"), help="directory for its state")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    state = options.output / "state.json"
    counts: Counter[str] = Counter(json.loads(state.read_text()) if state.is_file() else {})
    images = sources()
    warnings.simplefilter("ignore")  # Pillow's, of broken EXIF blocks
    for number in tqdm(range(counts.total(), options.mutations), initial=counts.total(), total=options.mutations):
        random = np.random.default_rng(number)
        data = mutated(images[number % len(images)], random)
        counts[found := verdict(data)] += 1
        if found.startswith(("no code", "too long", "shape")):
            (options.output / f"{number}.bin").write_bytes(data)
        if counts.total() % KEEP_EVERY == 0 or counts.total() == options.mutations:
            write_atomically(state, json.dumps(counts))
    wrong = {name: count for name, count in counts.items() if not name.startswith(("decoded", "IMG_"))}
    print(json.dumps(dict(counts.most_common()), indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
