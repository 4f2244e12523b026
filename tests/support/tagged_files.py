"""A small data set with a multi-label task that some products lack."""

from __future__ import annotations

from pathlib import Path

from data_set_files import picture

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import MultiLabel, SingleLabel, Task

COLOR = SingleLabel(name="color", labels=["red", "blue", "green"])
TAGS = MultiLabel(name="tags", labels=["new", "sale", "never"])
# Of 8 products 6 have tags: 3 are new, 2 are on sale, none is never.
TAGS_OF_8 = [["new"], ["new", "sale"], [], None, ["sale"], ["new"], None, []]
SPLITS = {"train": 24, "validation": 16, "test": 13}


def write_tagged(directory: Path, tasks: tuple[Task, ...] = (COLOR, TAGS)) -> Path:
    """No product is green."""
    write_rows(
        NewDataset(directory, tasks, source="drawn", settings={}),
        (product(split, n) for split, rows in SPLITS.items() for n in range(rows)),
    )
    return directory


def product(split: str, n: int) -> Product:
    color, tags = ("red", "blue")[n % 2], TAGS_OF_8[n % 8]
    title = " ".join([color, "dress", *(tags or [])])
    return Product(f"{split}-{n}", picture(n), title, {"color": color, "tags": tags}, split)
