"""A data set back to a table that people read: products.csv beside a folder of image files.

python -m dataset.as_table data/open_clipart --output data/drawings --products 3000

Labels of a product that may have several are parted by |. Splits are left out: who prepares the table draws new ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cma_clip.command import command
from cma_clip.files import new_directory
from dataset.format import DatasetInfo
from model.config import PreprocessConfig
from model.image_header import inspect
from model.refusal import Refusal
from model.tasks import Task

TABLE, IMAGES = "products.csv", "images"


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="directory written by train.prepare")
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("--products", type=int, help="only so many, drawn by chance; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    args = parser.parse_args(arguments)
    if args.output.exists():
        raise ValueError(f"--output {args.output}: is there; name a new directory")
    info = DatasetInfo.read(args.data)
    total = sum(split.rows for split in info.splits.values())
    if args.products is not None and not 1 <= args.products <= total:
        raise ValueError(f"--products {args.products}: {args.data} has {total}")
    drawn = np.random.default_rng(args.seed).permutation(total)[: args.products]
    with new_directory(args.output) as folder:
        write_table(folder, args.data, info, set(drawn.tolist()))
    print(f"{args.output / TABLE}: {len(drawn):,} products")


def write_table(folder: Path, data: Path, info: DatasetInfo, places: set[int]) -> None:
    """The products at these places, in the order of splits and shards."""
    (folder / IMAGES).mkdir()
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "title", *(task.name for task in info.tasks)])
        for place, product in enumerate(_products(data, info)):
            if place in places:
                name = ""
                if product["image"]:
                    name = f"{IMAGES}/{place}.{kind_of(product['image'])}"
                    (folder / name).write_bytes(product["image"])
                cells = (cell_of(task, product[task.name]) for task in info.tasks)
                writer.writerow([product["id"], name, product["title"], *cells])


def cell_of(task: Task, stored: Any) -> str:
    """The labels as one text: empty where they are not known, a list where a bar would part them otherwise."""
    labels = task.labels_in(stored)
    if stored is not None and task.several_labels and (not labels or any("|" in label for label in labels)):
        return json.dumps(labels, ensure_ascii=False)
    return "|".join(labels)


def kind_of(image: bytes) -> str:
    """How its file's name ends; whoever reads one that is damaged is told so then."""
    try:
        return inspect(image, PreprocessConfig()).format.lower()
    except Refusal:
        return "damaged"


def _products(data: Path, info: DatasetInfo) -> Iterator[dict[str, Any]]:
    for split in info.splits.values():
        for shard in split.shards:
            for batch in pq.ParquetFile(data / shard.file).iter_batches():
                yield from batch.to_pylist()


if __name__ == "__main__":
    sys.exit(main())
