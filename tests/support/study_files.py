"""A small data set with every kind of gap, and a random network's bundle for it."""

from __future__ import annotations

from pathlib import Path

from data_set_files import picture
from tiny import tiny_bundle_config, tiny_config, tiny_network

from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.bundle import save_bundle
from model.tasks import MultiLabel, SingleLabel, TaskSet

TASKS = TaskSet(
    [
        SingleLabel(name="color", labels=["red", "blue", "green"]),
        MultiLabel(name="tags", labels=["polka dot", "new"]),
    ]
)
# title, picture, colour, tags
ROWS = [
    ("Red dress", picture(0), "red", ["new"]),
    ("Gown by Redwood", picture(1), "red", []),
    ("blue, with polka dots", picture(2), "blue", ["polka dot"]),
    ("", picture(3), "blue", ["new"]),
    ("green gown", b"", "green", ["new"]),
    ("new green gown", picture(5), "green", ["new", "polka dot"]),
    ("Skirt", picture(6)[:200], "blue", None),
    ("Tunic in BLUE", picture(7), None, ["polka dot"]),
    ("no label at all", picture(8), None, None),
]


def write_products(directory: Path, rows: list[tuple] = ROWS, **settings: str) -> Path:
    """The rows as split `test`, and again as `train`, with ids test0, test1 and so on."""
    products = [
        Product(f"{split}{n}", image, title, {"color": color, "tags": tags}, split)
        for split in ("train", "test")
        for n, (title, image, color, tags) in enumerate(rows)
    ]
    write_rows(NewDataset(directory=directory, tasks=TASKS, source="test", settings=dict(settings)), products)
    return directory


def random_bundle(directory: Path, **settings: object) -> Path:
    """`settings`: of the model."""
    config = tiny_config(**settings)
    save_bundle(directory, tiny_bundle_config(config, TASKS), tiny_network(config, TASKS))
    return directory
