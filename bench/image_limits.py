"""Builds the costliest images that the table of limits accepts, and measures what each costs.

    python -m bench.image_limits

Each is decoded in processes of its own: the least CPU seconds of one core, and how much its peak of memory grows. Exit
status 1: one costs more than 1 s or 400 MB.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cma_clip.command import command
from cma_clip.tables import markdown
from model.image_header.jpeg import MARKER
from model.image_header.png import chunk as png_chunk
from model.image_limits import IMAGE_LIMITS

MOST_SECONDS, MOST_MEGABYTES = 1.0, 400
CHILD = """
import json, sys, time
from pathlib import Path
from model.config import PreprocessConfig
from model.images import image_to_pixels
data, config = Path(sys.argv[1]).read_bytes(), PreprocessConfig()
image_to_pixels(Path(sys.argv[2]).read_bytes(), config)
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
before, start = peak(), time.process_time()
try:
    image_to_pixels(data, config)
    answer = "decoded"
except ValueError as error:
    answer = str(error)
print(json.dumps({"answer": answer, "seconds": time.process_time() - start, "megabytes": peak() - before}))
"""


class Cost(NamedTuple):
    """CPU seconds, megabytes above the process's own, and `decoded` or the refusal."""

    answer: str
    seconds: float
    megabytes: float


def cost_of(data: bytes, repeats: int = 1) -> Cost:
    """What one image costs, in a process of its own that has decoded a small one before: the cheapest of several."""
    with tempfile.TemporaryDirectory() as folder:
        image, small = Path(folder, "image"), Path(folder, "small")
        image.write_bytes(data)
        small.write_bytes(encoded(Image.new("RGB", (8, 8)), "JPEG"))
        child = [sys.executable, "-c", CHILD, str(image), str(small)]
        runs = [subprocess.run(child, check=True, capture_output=True, text=True) for _ in range(repeats)]
    return min((Cost(**json.loads(run.stdout)) for run in runs), key=lambda cost: cost.seconds)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def sides(kind: str) -> tuple[int, int]:
    """Width and height of nearly as many pixels as the kind may have."""
    width = int(IMAGE_LIMITS[kind].pixels ** 0.5)
    return width, IMAGE_LIMITS[kind].pixels // width


def texture(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Noise on slow changes, one tile again and again: as many coefficients as a photograph's."""
    tile = np.random.default_rng(0).normal(128, 18, (500, 500, len(mode))).clip(0, 255).astype(np.uint8)
    repeats = (size[1] // 500 + 1, size[0] // 500 + 1, 1)
    return Image.fromarray(np.tile(tile, repeats)[: size[1], : size[0]], mode)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def jpeg() -> bytes:
    return encoded(texture(sides("JPEG")), "JPEG", quality=55, subsampling="4:4:4", exif=turned())


def cmyk_jpeg() -> bytes:
    return encoded(texture(sides("CMYK_JPEG"), "CMYK"), "JPEG", quality=40, exif=turned())


def progressive_jpeg() -> bytes:
    """All coefficients are set, then the last scan comes again until the limit is reached."""
    data = encoded(texture(sides("PROGRESSIVE_JPEG")), "JPEG", quality=50, subsampling="4:2:0", progressive=True)
    return with_more_scans(data, IMAGE_LIMITS["PROGRESSIVE_JPEG"].scan_pixels)


def with_more_scans(data: bytes, scan_pixels: int) -> bytes:
    """A progressive JPEG whose last scan, of one component, is repeated as often as `scan_pixels` allow."""
    scans = [found.start() for found in MARKER.finditer(data) if data[found.start() + 1] == 0xDA]
    pixels = sides("PROGRESSIVE_JPEG")[0] * sides("PROGRESSIVE_JPEG")[1]
    more = int((scan_pixels - 8.6 * pixels) // pixels)  # ten scans of 4:2:0 go over 8.5 times the pixels
    return data[:-2] + data[scans[-1] : -2] * max(more, 0) + data[-2:]


def png(kind: str, depth: int) -> bytes:
    """RGBA, every row by the filter that takes longest."""
    width, height = sides(kind)
    row = b"\4" + bytes((width * 4 * depth // 8 // 64 + 1) * list(range(64)))[: width * 4 * depth // 8]
    head = width.to_bytes(4) + height.to_bytes(4) + bytes([depth, 6, 0, 0, 0])
    stream = zlib.compressobj(1)
    body = b"".join([*(stream.compress(row) for _ in range(height)), stream.flush()])
    chunks = [(b"IHDR", head), (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def webp() -> bytes:
    return encoded(texture(sides("WEBP"), "RGBA"), "WEBP", quality=30, method=0, alpha_quality=10)


def webp_of_one_colour() -> bytes:
    return encoded(Image.new("RGBA", sides("WEBP"), (9, 9, 9, 9)), "WEBP", lossless=True, method=0)


def gif() -> bytes:
    image = Image.new("P", sides("GIF"))
    image.putpalette([value % 251 for value in range(768)])
    return encoded(image, "GIF", transparency=0)


def bmp(kind: str, compression: int) -> bytes:
    """Four bits a pixel; by run lengths, each row only ends."""
    width, height = sides(kind)
    palette = bytes(value % 251 for value in range(64))
    rows = b"\1\x15\0\0" * height if compression else bytes((width * 4 + 31) // 32 * 4 * height)
    numbers = (40, width, height, 1 | 4 << 16, compression, len(rows), 0, 0, 16, 0)
    head = b"".join(number.to_bytes(4, "little") for number in numbers)
    start = b"BM" + (118 + len(rows)).to_bytes(4, "little") + bytes(4) + (118).to_bytes(4, "little")
    return start + head + palette + rows


def segments() -> bytes:
    """As many comments as a JPEG may have segments, in 20 MB."""
    data = encoded(Image.new("RGB", (64, 64)), "JPEG")
    one = b"\xff\xe1" + (19_000).to_bytes(2) + b"Exif\0\0".ljust(18_998, b"\0")
    return data[:2] + one * (IMAGE_LIMITS["JPEG"].parts - 20) + data[2:]


def chunks() -> bytes:
    data = encoded(Image.new("RGB", (64, 64)), "PNG")
    return data[:33] + png_chunk(b"iTXt", b"k" + bytes(1000)) * (IMAGE_LIMITS["PNG"].parts - 9) + data[33:]


def blocks() -> bytes:
    data = gif_of(64)
    start = data.index(b"\x2c")
    return data[:start] + b"\x21\xfe" + b"\1x" * (IMAGE_LIMITS["GIF"].parts - 9) + b"\0" + data[start:]


def gif_of(side: int) -> bytes:
    return encoded(Image.new("L", (side, side)), "GIF")


# Name -> kind in the table of limits, and what builds it.
WORST: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG, 4:4:4, turned": ("JPEG", jpeg),
    "JPEG, EXIF segments": ("JPEG", segments),
    "JPEG, progressive, repeated scans": ("PROGRESSIVE_JPEG", progressive_jpeg),
    "JPEG, CMYK, turned": ("CMYK_JPEG", cmyk_jpeg),
    "PNG, RGBA, Paeth": ("PNG", lambda: png("PNG", 8)),
    "PNG, text chunks": ("PNG", chunks),
    "PNG, RGBA of 16 bits, Paeth": ("PNG_16", lambda: png("PNG_16", 16)),
    "WebP, lossy with alpha": ("WEBP", webp),
    "WebP, one colour": ("WEBP", webp_of_one_colour),
    "GIF, transparent": ("GIF", gif),
    "GIF, comment blocks": ("GIF", blocks),
    "BMP, 16 colours": ("BMP", lambda: bmp("BMP", 0)),
    "BMP, run lengths": ("BMP_RLE", lambda: bmp("BMP_RLE", 2)),
}
COLUMNS = ("image", "kind", "most pixels", "KB", "CPU s", "MB", "answer")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="measure the costliest images that the table of limits accepts")
    parser.add_argument("--repeats", type=int, default=3, help="processes that decode an image; the cheapest counts")
    repeats = parser.parse_args(arguments).repeats
    rows, worst = [], True
    for name, (kind, build) in WORST.items():
        data = build()
        cost = cost_of(data, repeats)
        worst &= cost.answer == "decoded" and cost.seconds <= MOST_SECONDS and cost.megabytes <= MOST_MEGABYTES
        size = f"{IMAGE_LIMITS[kind].pixels / 1e6:.0f} M"
        rows.append([name, kind, size, len(data) // 1024, f"{cost.seconds:.2f}", f"{cost.megabytes:.0f}", cost.answer])
    print(markdown(COLUMNS, rows))
    return 0 if worst else 1


if __name__ == "__main__":
    sys.exit(main())
