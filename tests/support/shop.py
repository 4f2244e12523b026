"""A small catalogue whose labels can be learned: the colour from image and title, the tags from titles alone."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (30, 180, 30)}
KINDS = ("dress", "shirt", "skirt")
HEADER = ("sku", "photo", "name", "Main Colour", "tags", "price", "added")


def shop_rows(folder: Path, count: int) -> list[dict[str, str]]:
    """Rows by HEADER, whose pictures are written into `folder/photos`."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), []
    for n in range(count):
        color, kind = list(COLORS)[n % 3], KINDS[n // 3 % 3]
        pixels = np.clip(np.array(COLORS[color]) + rng.integers(-25, 26, (24, 24, 3)), 0, 255).astype(np.uint8)
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "JPEG")
        (folder / f"photos/{n}.jpg").write_bytes(picture.getvalue())
        tags = "|".join([kind, *(["new"] if n % 2 else [])])
        title = f"{'New ' if n % 2 else ''}{kind} no. {n}{' in ' + color if n % 5 else ''}"
        cells = (f"s{n}", f"photos/{n}.jpg", title, color, tags, f"{n + 0.5}", f"2026-01-{n % 28 + 1:02}")
        rows.append(dict(zip(HEADER, cells, strict=True)))
    return rows


def write_shop(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
