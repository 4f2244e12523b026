"""UPMC Food-101 (section 3.1.2): 101 dishes, photographs with the titles of their web pages, in Kaggle's layout.

The CSV files have no header. A text without an image is a reject; an image without a text is counted and left out, as
in the paper's counts. Titles often name the dish: --mask-class-name shows what is learnt without that.
"""

from __future__ import annotations

import argparse
import csv
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from os import DirEntry
from pathlib import Path

from dataset.parts import cut
from dataset.products import Product, Reject
from dataset.rows import TWICE, ImageReader, UnreadProduct
from dataset.splits import SPLITS, SplitShares, refuse_leakage
from dataset.writer import NewDataset, write_dataset
from model.config import PreprocessConfig
from model.preprocess import clean_title
from model.refusal import Code, Refusal
from model.tasks import SingleLabel
from train.prepare.official import (
    MAX_REJECTS,
    VALIDATION,
    fingerprint,
    folders,
    listing,
    refuse_missing,
    report,
    rows_of,
)
from train.prepare.options import add_common_arguments, check_ranges

VERSION = 1
# The paper has 67,971 and 22,715: the first row of each file was read as a header.
PAPER = {"train and validation": 67_972, "test": 22_716, "dishes": 101}
CELLS = ("image", "title", "dish")
ARTEFACT = re.compile(r"""\[\[(["'])(.*)\1\]\]""", re.DOTALL)


@dataclass(frozen=True)
class Half:
    """The official train or test half: its CSV file, and dish -> name -> image file."""

    name: str
    titles: Path
    images: dict[str, dict[str, DirEntry[str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare food101`."""
    add_common_arguments(parser, MAX_REJECTS, seed="of the validation share")
    parser.add_argument("--source", type=Path, required=True, help="folder with images/ and texts/")
    parser.add_argument("--validation", type=float, default=0.2, help="share of the train rows (%(default)s)")
    parser.add_argument("--mask-class-name", action="store_true", help="take the dish's name out of its titles")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: a folder or file is missing, too many rows are unusable, the halves share an id, or the output is
            taken.
    """
    check_ranges(arguments, validation=VALIDATION)
    halves = [read_half(arguments.source, name) for name in ("train", "test")]
    dishes = sorted(halves[0].images)
    shares = SplitShares(arguments.validation, 0, arguments.seed)
    rows = {half.name: list(read_rows(half, dishes, shares, arguments.mask_class_name)) for half in halves}
    _refuse(arguments, halves, rows)
    new = NewDataset(
        directory=arguments.output,
        tasks=[SingleLabel(name="dish", labels=dishes)],
        source=f"UPMC Food-101 {arguments.source}",
        settings={
            **{"data_set": "food101", "version": VERSION, "files": _fingerprint(halves)},
            **{name: getattr(arguments, name) for name in ("validation", "mask_class_name", "seed")},
        },
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
        next_stage="warmup --config train/recipes/food101.yaml",
    )
    info = write_dataset(new, cut(_by_split(rows)), ImageReader(), arguments.workers)
    found = {"train and validation": rows_of(info, "train", "validation"), "test": rows_of(info, "test")}
    report(info, found | {"dishes": len(dishes)}, PAPER)
    for half in halves:
        _report_untitled(half, rows[half.name])


def read_half(source: Path, name: str) -> Half:
    """List the images of `train` or `test`.

    Raises:
        ValueError: a folder or the CSV file is missing.
    """
    titles = source / "texts" / f"{name}_titles.csv"
    if not titles.is_file():
        raise ValueError(f"{titles}: no such file; --source wants the folder that holds images/ and texts/")
    return Half(name, titles, {folder.name: listing(folder) for folder in folders(source / "images" / name)})


def read_rows(half: Half, dishes: list[str], shares: SplitShares, mask: bool) -> Iterator[UnreadProduct | Reject]:
    """Every row of the half's CSV file; the train half gives validation its share.

    Raises:
        ValueError: the file is not CSV.
    """
    seen: set[str] = set()
    # surrogateescape: an invalid byte must cost its own row only.
    with half.titles.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            for number, cells in enumerate(filter(None, reader), start=1):
                id = _id(cells)
                try:
                    _check_cells(half, cells, dishes)
                    if id in seen:
                        raise Refusal(Code.DUPLICATE_ID, TWICE)
                    row = UnreadProduct(number, _product(half, id, cells, shares, mask), _image_of(half, cells))
                    seen.add(id)
                    yield row
                except Refusal as refusal:
                    yield Reject.of(number, id, refusal)
        except csv.Error as error:
            raise ValueError(f"{half.titles}: line {reader.line_num} is not CSV: {error}") from None


def _id(cells: list[str]) -> str:
    name = cells[0] if len(cells) == len(CELLS) else ""
    return Path(name).stem.encode(errors="backslashreplace").decode()


def _check_cells(half: Half, cells: list[str], dishes: list[str]) -> None:
    if len(cells) != len(CELLS):
        problem = f"{half.titles.name}: {len(cells)} cells, expected {', '.join(CELLS)}"
        raise Refusal(Code.ROW_UNUSABLE, problem)
    if cells[2] not in dishes:
        problem = f"{half.titles.name}: dish {cells[2]!r} is not among the {len(dishes)} of images/train"
        raise Refusal(Code.ROW_UNUSABLE, problem)


def _product(half: Half, id: str, cells: list[str], shares: SplitShares, mask: bool) -> Product:
    """In its split, with the title that is asked for; without its image."""
    _, title, dish = cells
    title = without_name(without_artefact(title), dish) if mask else without_artefact(title)
    clean_title(title, PreprocessConfig().max_title_bytes)
    split = shares.split_of(id) if half.name == "train" else half.name
    return Product(id, b"", title, {"dish": dish}, split)


def _image_of(half: Half, cells: list[str]) -> Path:
    name, _, dish = cells
    return half.titles.parents[1] / "images" / half.name / dish / Path(name).name


def without_artefact(title: str) -> str:
    """The title inside a literal [["…"]], which 948 titles of the test half carry."""
    found = ARTEFACT.fullmatch(title.strip())
    return (found.group(2) if found else title).strip()


def without_name(title: str, dish: str) -> str:
    """The title without the words of `creme_brulee`, whatever their accents, hyphens and a plural s."""
    title = unicodedata.normalize("NFC", title)
    bare = "".join(unicodedata.normalize("NFKD", character)[0] for character in title)
    kept, end = [], 0
    for found in _name_pattern(dish).finditer(bare):
        kept.append(title[end : found.start()])
        end = found.end()
    return " ".join("".join([*kept, title[end:]]).split())


@cache
def _name_pattern(dish: str) -> re.Pattern[str]:
    words = [re.escape(word.removesuffix("s")) + "s?" for word in dish.split("_")]
    return re.compile(r"(?<!\w)" + r"[\s_-]*".join(words) + r"(?!\w)", re.IGNORECASE)


def _refuse(arguments: argparse.Namespace, halves: list[Half], rows: dict[str, list[UnreadProduct | Reject]]) -> None:
    """Hold both halves against each other and against the images before any work is done."""
    used = {half.name: [row for row in rows[half.name] if isinstance(row, UnreadProduct)] for half in halves}
    refuse_leakage(arguments.source, {half.titles.name: [row.product.id for row in used[half.name]] for half in halves})
    missing = [
        str(row.image)
        for half in halves
        for row in used[half.name]
        if Path(str(row.image)).name not in half.images.get(str(row.product.labels["dish"]), {})
    ]
    refuse_missing(missing, sum(map(len, rows.values())), arguments.max_rejects)


def _by_split(rows: dict[str, list[UnreadProduct | Reject]]) -> dict[str, list[UnreadProduct | Reject]]:
    found: dict[str, list[UnreadProduct | Reject]] = {split: [] for split in SPLITS}
    for half, members in rows.items():
        for row in members:
            found[half if isinstance(row, Reject) else row.product.split].append(row)
    return found


def _fingerprint(halves: list[Half]) -> str:
    images = (image for half in halves for folder in half.images.values() for image in folder.values())
    return fingerprint([*images, *(half.titles for half in halves)])


def _report_untitled(half: Half, rows: list[UnreadProduct | Reject]) -> None:
    titled = {row.id if isinstance(row, Reject) else row.product.id for row in rows}
    untitled = sorted(name for folder in half.images.values() for name in folder if Path(name).stem not in titled)
    if untitled:
        print(f"  {half.name}: {len(untitled):,} images without a title are left out, such as {untitled[0]}")
