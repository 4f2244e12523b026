"""Emoji: 1,650 things, most drawn by each of four vendors, with Unicode's names and keywords in seven languages.

Four tasks: `group` and `subgroup`, as Unicode sorts emoji; `keywords`, the English ones of its annotators; and
`color`, the main colour of the drawing, which hardly a title names. Titles are names and keywords in one of seven
languages, or only the name of the set. Splits share no emoji, whoever drew it.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from dataset.format import Settings
from dataset.products import Product, Reject
from dataset.writer import NewDataset, already_there, write_rows
from model.refusal import Refusal
from model.tasks import Task
from train.prepare.alike import groups, splits_of, without_duplicates
from train.prepare.drawings import look_at, read_all
from train.prepare.emoji.labels import Item, labels_of, make_tasks
from train.prepare.emoji.names import Emoji, kin_of, read_emoji
from train.prepare.emoji.source import VENDORS, all_packages, check, find, read_drawings
from train.prepare.emoji.titles import product_title
from train.prepare.official import MAX_REJECTS
from train.prepare.options import add_common_arguments, check_ranges

log = logging.getLogger(__name__)

VERSION = 1


@dataclass(frozen=True)
class Drawing:
    """One emoji as one vendor drew it. `row` counts from 1; `id` is `VENDOR/CODE`."""

    row: int
    id: str
    emoji: Emoji
    encoded: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare emoji`."""
    parser.add_argument("--source", type=Path, help="folder with the .tgz files of npm's packages")
    parser.add_argument("--image-size", type=int, default=64, help="side in pixels (%(default)s)")
    add_common_arguments(parser, MAX_REJECTS, seed="of titles and split")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a number is out of range, a package is not to be had or another one, the output is taken.
    """
    check_ranges(arguments, image_size=(16, 512))
    made_by: Settings = {"data_set": "emoji", "version": VERSION, "packages": [one.spec for one in all_packages()]}
    new = NewDataset(
        directory=arguments.output,
        tasks=[],
        source=f"emoji: {_credits()}; names and keywords of Unicode CLDR (Unicode-3.0) by emojibase-data (MIT)",
        settings=made_by | {"image_size": arguments.image_size, "seed": arguments.seed},
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
        next_stage="contrastive --config train/recipes/emoji.yaml",  # no pretrained towers are this small
    )
    if already_there(new):
        return
    drawings = list_drawings(arguments.source or find())
    cure = "Pillow lacks a decoder, or --max-rejects allows more"
    read = partial(read_drawing, side=arguments.image_size)
    items, rejects = read_all(read, drawings, arguments.workers, arguments.max_rejects, cure)
    different = unique(items)
    log.info("Emoji: of %d drawings %d left out as duplicates", len(drawings), len(items) - len(different))
    splits = splits_by_kin(different, arguments.seed)
    tasks = make_tasks(different, splits)
    rows: list[Product | Reject] = [*rejects, *products(different, splits, tasks, arguments.seed)]
    write_rows(replace(new, tasks=tasks), rows, len(rows))


def list_drawings(folder: Path) -> list[Drawing]:
    """Every emoji that a vendor drew, vendor by vendor.

    Raises:
        ValueError: a package is missing, damaged or another one.
    """
    check(folder)
    emoji, found = read_emoji(folder), []
    for name, vendor in VENDORS.items():
        drawn = read_drawings(folder, vendor)
        found += [(f"{name}/{one.code}", one, drawn[one.code]) for one in emoji if one.code in drawn]
        log.info("%s: %d of %d emoji", vendor.title, sum(one.code in drawn for one in emoji), len(emoji))
    return [Drawing(row, *drawing) for row, drawing in enumerate(found, 1)]


def read_drawing(drawing: Drawing, side: int) -> Item | Reject:
    """Look at an image; `side` in pixels is that of the square to train on."""
    try:
        return Item(drawing.id, drawing.emoji, look_at(drawing.encoded, side))
    except Refusal as refusal:
        return Reject.of(drawing.row, drawing.id, refusal)


def unique(items: Sequence[Item]) -> list[Item]:
    """One of each image: some vendors draw two emoji alike."""
    kept = without_duplicates([item.id for item in items], [item.image.digest for item in items])
    return [items[place] for place in kept]


def splits_by_kin(items: Sequence[Item], seed: int) -> list[str]:
    """The split of each drawing: that of its emoji, whoever drew it, and of all that is nearly the same."""
    ids = [item.id for item in items]
    thumbnails = np.stack([item.image.thumbnail for item in items])
    firsts = groups(ids, thumbnails, series=lambda id: kin_of(id.partition("/")[2]))
    log.info("Emoji: %d drawings in %d groups of the same or nearly the same emoji", len(ids), len(set(firsts)))
    return splits_of([item.emoji.subgroup for item in items], firsts, seed)


def products(items: Sequence[Item], splits: Sequence[str], tasks: Sequence[Task], seed: int) -> Iterator[Product]:
    """The drawings with titles and labels."""
    for item, split in zip(items, splits, strict=True):
        title = product_title(item.id, item.emoji, VENDORS[item.id.partition("/")[0]].title, seed)
        yield Product(item.id, item.image.encoded, title, labels_of(item, tasks), split)


def _credits() -> str:
    return ", ".join(f"{vendor.title} ({vendor.license})" for vendor in VENDORS.values())
