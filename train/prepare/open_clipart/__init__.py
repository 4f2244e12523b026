"""Open Clip Art: thousands of public-domain drawings with the titles and keywords that their authors gave them.

Three tasks: `category`, the folder that editors sorted a drawing into; `keywords`, the authors' own; and `color`,
the main colour, which the image shows and hardly a title names. Many titles are those of a whole collection.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dataset.format import Settings
from dataset.image_cells import read_image
from dataset.products import Product, Reject
from dataset.writer import NewDataset, already_there, write_rows
from model.refusal import Refusal
from model.tasks import Task
from train.prepare.alike import groups, splits_of, thinned, without_duplicates
from train.prepare.drawings import LIMITS, look_at, read_all
from train.prepare.open_clipart.labels import Item, labels_of, make_tasks
from train.prepare.open_clipart.metadata import MOST_BYTES, read_metadata
from train.prepare.open_clipart.source import Drawing, find, list_drawings
from train.prepare.options import add_common_arguments, check_ranges

log = logging.getLogger(__name__)

VERSION = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare open_clipart`."""
    parser.add_argument("--source", type=Path, help="folder with svg and png, as in Debian's packages")
    parser.add_argument("--image-size", type=int, default=64, help="side in pixels (%(default)s)")
    add_common_arguments(parser, seed="of the split")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a number is out of range, the drawings are not to be had or too few, the output is taken.
    """
    check_ranges(arguments, image_size=(16, 512))
    drawings = list_drawings(arguments.source or find())
    new = NewDataset(
        directory=arguments.output,
        tasks=[],
        source="Open Clip Art Library: public-domain drawings, as in Debian's openclipart-png and openclipart-svg",
        settings=_settings(arguments, drawings),
        overwrite=arguments.overwrite,
        next_stage="contrastive --config train/recipes/open_clipart.yaml",  # no pretrained towers are this small
    )
    if already_there(new):
        return
    # look_at() has a limit of its own and refuses what Pillow warns of.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    chosen = set(thinned([drawing.id for drawing in drawings], arguments.seed))
    read, rejects = read_all(
        partial(read_drawing, side=arguments.image_size),
        [drawing for drawing in drawings if drawing.id in chosen],
        arguments.workers,
        new.max_rejects,
        "--source wants the svg and png of whole packages",
    )
    items = unique(read)
    log.info(
        "Open Clip Art: of %d drawings %d left out as generated, %d as duplicates",
        len(drawings),
        len(drawings) - len(chosen),
        len(read) - len(items),
    )
    tasks = make_tasks(items)
    rows: list[Product | Reject] = [*rejects, *products(items, tasks, arguments.seed)]
    write_rows(replace(new, tasks=tasks), rows, len(rows))


def read_drawing(drawing: Drawing, side: int) -> Item | Reject:
    """Read SVG and PNG; `side` in pixels is that of the square to train on."""
    try:
        metadata = read_metadata(read_image(drawing.svg, MOST_BYTES))
        image = look_at(read_image(drawing.png, LIMITS.max_image_bytes), side)
    except Refusal as refusal:
        return Reject.of(drawing.row, drawing.id, refusal)
    return Item(drawing.id, metadata, image)


def unique(items: Sequence[Item]) -> list[Item]:
    """One of each image."""
    kept = without_duplicates([item.id for item in items], [item.image.digest for item in items])
    return [items[place] for place in kept]


def products(items: Sequence[Item], tasks: Sequence[Task], seed: int) -> Iterator[Product]:
    """The drawings with labels and splits."""
    ids = [item.id for item in items]
    firsts = groups(ids, np.stack([item.image.thumbnail for item in items]))
    log.info("Open Clip Art: %d drawings in %d groups of near-duplicates", len(ids), len(set(firsts)))
    splits = splits_of([item.folder for item in items], firsts, seed)
    for item, split in zip(items, splits, strict=True):
        yield Product(item.id, item.image.encoded, item.metadata.title, labels_of(item, tasks), split)


def _settings(arguments: argparse.Namespace, drawings: Sequence[Drawing]) -> Settings:
    """All that the products depend on, so that the same settings mean the same data set."""
    digest = hashlib.sha256()
    for drawing in drawings:
        digest.update(drawing.id.encode(errors="surrogateescape"))
        for path in (drawing.svg, drawing.png):
            digest.update(hashlib.sha256(path.read_bytes() if path.is_file() else b"").digest())
    made_by: Settings = {"data_set": "open_clipart", "version": VERSION, "drawings": digest.hexdigest()[:16]}
    return made_by | {"image_size": arguments.image_size, "seed": arguments.seed}
