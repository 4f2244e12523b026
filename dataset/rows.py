"""One row of a catalogue to one product, or to the reason why not."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset.cells import LITERAL_NAN, id_for_people, text_of, value_of
from dataset.duplicates import Links
from dataset.image_cells import place_of, read_image
from dataset.incidents import incident
from dataset.label_values import label_text
from dataset.labels import LabelRules, TaskColumn, labels_of
from dataset.parts import Part
from dataset.products import Product, Reject
from dataset.seen_ids import SeenIds
from dataset.splits import EXPECTED, SplitShares, named_split
from dataset.table import Row, Source
from model.config import PreprocessConfig
from model.images import decode_pixels
from model.preprocess import clean_title
from model.refusal import Code, Refusal
from model.tasks import Task

TWICE = "an earlier row has this id"
# Product's id -> task -> labels that a person decided on; None: nobody can tell.
Decisions = Mapping[str, Mapping[str, list[str] | None]]


@dataclass(frozen=True)
class Columns:
    """Which column holds what; without an id column the row number is the id.

    `split` names the split; products of one `group` are drawn into one.
    """

    image: str | None
    title: str | None
    id: str | None = None
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Reading:
    """How rows become products.

    Attributes:
        image_root: what relative image paths start from.
        keep_literal_nan: `nan`, `None` and their like in an id, a title or an image's path are text, not an empty cell.
        rules: of labels.
        decisions: what stands in place of the label cells of some rows.
        split: of all rows; None where a column says it, or `shares` and `links` draw it.
    """

    columns: Columns
    image_root: Path
    tasks: list[TaskColumn] = field(default_factory=list)
    rules: LabelRules = field(default_factory=LabelRules)
    decisions: Decisions = field(default_factory=dict)
    split: str | None = None
    links: Links = field(default_factory=Links)
    shares: SplitShares = field(default_factory=SplitShares)
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)
    keep_literal_nan: bool = False

    def used_columns(self) -> list[str]:
        """The columns that must be read, each once."""
        columns = self.columns
        fixed = (columns.id, columns.image, columns.title, columns.split, columns.group)
        return list(dict.fromkeys(name for name in (*fixed, *(t.column for t in self.tasks)) if name is not None))

    def check_columns(self, source: Source) -> None:
        """Refuse a table that lacks a column, or has one that is used twice.

        Raises:
            ValueError: with the columns that it has, or the places of the two.
        """
        check_columns(source, self.used_columns())

    def label_cells(self, row: Row) -> dict[str, object]:
        """Task -> its cell, or what was decided in its place."""
        cells = {task.name: row.cells[task.column] for task in self.tasks}
        if not self.decisions:
            return cells
        try:
            return cells | dict(self.decisions.get(id_of(row, self), {}))
        except Refusal:
            return cells  # of a row without an id, which is rejected

    def split_of(self, row: Row, id: str) -> tuple[str, str]:
        """The split of a row, and the group by which it is drawn: its id where it has no other.

        Raises:
            Refusal: the cell of the split column names none.
        """
        group = label_cell(value_of(cell_of(row, self.columns.group), self.keep_literal_nan)) or id
        if self.split:
            return self.split, group
        if self.columns.split is None:
            return self.shares.split_of(self.links.first_of(group)), group
        cell = label_cell(cell_of(row, self.columns.split))
        split = named_split(cell)
        if split is None:
            raise Refusal(Code.ROW_UNUSABLE, f"split {cell!r}, {EXPECTED}")
        return split, group


@dataclass(frozen=True)
class UnreadProduct:
    """A product whose image has not been looked at: `image` is encoded bytes, a path, or None; `group` as split_of."""

    row: int
    product: Product
    image: bytes | Path | None
    group: str = ""

    @property
    def size(self) -> int:
        """Bytes in memory that count."""
        return len(self.image) if isinstance(self.image, bytes) else 0


@dataclass(frozen=True)
class ImageReader:
    """Makes products whose images are encoded: the bytes stay as they are, once training could decode them."""

    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def products(self, part: Part) -> Iterator[Product | Reject]:
        """One product for each that is unread; rejects pass."""
        for item in part.items:
            yield item if isinstance(item, Reject) else self.read(item)

    def read(self, unread: UnreadProduct) -> Product | Reject:
        """The product with its image, or what is wrong with it."""
        try:
            image = read_image(unread.image, self.preprocess.max_image_bytes)
            if unread.image is not None:
                decode_pixels(image, self.preprocess)
        except Refusal as refusal:
            return Reject.of(unread.row, unread.product.id, refusal)
        except Exception as error:
            return incident(unread.row, unread.product.id, error)
        return replace(unread.product, image=image)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """What the commands have in common that read tables."""
    parser.add_argument(
        "--keep-literal-nan",
        action="store_true",
        help=f"ids, titles and paths that say {', '.join(sorted(LITERAL_NAN))} are text; else such a cell is empty",
    )


def check_columns(source: Source, columns: list[str]) -> None:
    """As Reading.check_columns, of these."""
    for file, there in source.headers():
        missing = [repr(name) for name in columns if name not in there]
        if missing:
            has = ", ".join(map(repr, there)) or "none"
            hint = "; are its cells parted by commas?" if len(there) == 1 and re.search("[;\t|]", there[0]) else ""
            raise ValueError(f"{file}: no column {', '.join(missing)}; it has {has}{hint}")
        for name in columns:
            places = [str(place) for place, other in enumerate(there, start=1) if other == name]
            if len(places) > 1:
                raise ValueError(f"{file}: columns {' and '.join(places)} are both named {name!r}; rename one")


def unread_products(source: Source, reading: Reading, tasks: Iterable[Task]) -> Iterator[UnreadProduct | Reject]:
    """Every row of the table in order, checked but for its image."""
    seen = SeenIds()
    known = {task.name: reading.rules.spellings(task.labels) for task in tasks}
    for row in source.rows(reading.used_columns(), reading.columns.id):
        yield row if isinstance(row, Reject) else read_row(row, reading, known, seen)


def read_row(row: Row, reading: Reading, known: dict[str, dict[str, str]], seen: SeenIds) -> UnreadProduct | Reject:
    """Check all of a row but its image.

    Args:
        known: task -> key of a label (LabelRules.key) -> label.
        seen: the ids of the rows before; this row's is added.
    """
    columns = reading.columns
    id = str(row.number) if columns.id is None else id_for_people(row.cells[columns.id])
    try:
        id = id_of(row, reading)
        image = place_of(_cell(row, columns.image, reading), reading.image_root)
        title = _title(_cell(row, columns.title, reading), reading.preprocess)
        if image is None and not title:
            raise Refusal(Code.NO_MODALITY, "neither title nor image")
        cells = reading.label_cells(row)
        labels = {task.name: _labels(task, cells[task.name], known[task.name], reading.rules) for task in reading.tasks}
        split, group = reading.split_of(row, id)
        if not seen.add(id):
            raise Refusal(Code.DUPLICATE_ID, TWICE)
    except Refusal as refusal:
        return Reject.of(row.number, id, refusal)
    except Exception as error:
        return incident(row.number, id, error)
    return UnreadProduct(row.number, Product(id, b"", title, labels, split), image, group)


def _cell(row: Row, column: str | None, reading: Reading) -> object:
    """None where there is no such column, or nothing in the cell."""
    return None if column is None else value_of(row.cells[column], reading.keep_literal_nan)


def cell_of(row: Row, column: str | None) -> object:
    """None where there is no such column, or NaN: pandas writes it where nothing is."""
    cell = None if column is None else row.cells[column]
    return None if isinstance(cell, float) and cell != cell else cell


def label_cell(cell: object) -> str:
    """The text of a cell that names something, as a label does; of what is no text or number as it prints."""
    try:
        return "" if cell is None else label_text(cell)
    except ValueError:
        return str(cell)


def id_of(row: Row, reading: Reading) -> str:
    """The id of a row's product.

    Raises:
        Refusal: there is none, or it is not UTF-8 or a thing of parts.
    """
    if reading.columns.id is None:
        return str(row.number)
    id = text_of(_cell(row, reading.columns.id, reading), "the id").strip()
    if not id:
        raise Refusal(Code.NO_ID, "the row has no id")
    return id


def _title(cell: object, preprocess: PreprocessConfig) -> str:
    title = text_of(cell, "title")
    return title if clean_title(title, preprocess.max_title_bytes) else ""


def _labels(task: TaskColumn, cell: object, known: dict[str, str], rules: LabelRules) -> str | list[str] | None:
    found = labels_of(task, cell, rules.missing)
    if found is None:
        return None
    labels = [known.get(rules.key(label)) for label in found]
    if None in labels:
        label = found[labels.index(None)]
        raise Refusal(Code.ROW_UNUSABLE, f"{task.name}: label {label!r} is not among the {len(known)} known ones")
    return task.task.stored(list(dict.fromkeys(label for label in labels if label is not None)))
