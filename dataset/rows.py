"""One row of a catalogue to one product, or to the reason why not."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset.format import SPLITS
from dataset.labels import TaskColumn, labels_of
from dataset.parallel import ordered_map
from dataset.seen_ids import SeenIds, hash_of
from dataset.table import Row, Source
from dataset.writer import Product, Reject
from model.config import PreprocessConfig
from model.preprocess import clean_title, decode_image
from model.tasks import TaskSet


@dataclass(frozen=True)
class Columns:
    """Which column holds what; without an id column the row number is the id."""

    image: str
    title: str
    id: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class SplitShares:
    """Shares of validation and test, 0 to 1, and the seed that a product's place depends on."""

    validation: float = 0.1
    test: float = 0.1
    seed: int = 0

    def split_of(self, id: str) -> str:
        """The split of a product; it stays the same when the catalogue grows."""
        place = hash_of(f"{self.seed}:{id}") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


@dataclass(frozen=True)
class Reading:
    """How rows become products. `image_root`: what relative picture paths start from."""

    columns: Columns
    tasks: list[TaskColumn]
    shares: SplitShares
    image_root: Path
    preprocess: PreprocessConfig

    def used_columns(self) -> list[str]:
        """The columns that must be read, each once."""
        fixed = (self.columns.id, self.columns.image, self.columns.title, self.columns.split)
        return list(dict.fromkeys(name for name in (*fixed, *(t.name for t in self.tasks)) if name is not None))


@dataclass(frozen=True)
class Candidate:
    """A product whose picture has not been looked at: `picture` is encoded bytes, a path, or None."""

    row: int
    product: Product
    picture: bytes | Path | None


def products(source: Source, reading: Reading, tasks: TaskSet, workers: int) -> Iterator[Product | Reject]:
    """Every row of the table as a product or as a reject, in order."""
    seen = SeenIds()
    known = {task.name: frozenset(task.labels) for task in tasks}
    rows = source.rows(reading.used_columns())
    candidates = (row if isinstance(row, Reject) else read_row(row, reading, known, seen) for row in rows)
    check = partial(with_picture, preprocess=reading.preprocess)
    yield from ordered_map(ThreadPoolExecutor(workers), check, candidates, pending=4 * workers)


def read_row(row: Row, reading: Reading, known: dict[str, frozenset[str]], seen: SeenIds) -> Candidate | Reject:
    """Check all of a row but its picture.

    Args:
        known: task -> labels.
        seen: the ids of the rows before; this row's is added.
    """
    columns, cells = reading.columns, row.cells
    id = _id(row, columns)
    try:
        if not id:
            raise ValueError("no id")
        picture = _picture(cells[columns.image], reading.image_root)
        title = _title(cells[columns.title], reading.preprocess)
        if picture is None and not title:
            raise ValueError("neither title nor picture")
        labels = {task.name: _labels(task, cells[task.name], known[task.name]) for task in reading.tasks}
        split = _split(cells[columns.split]) if columns.split else reading.shares.split_of(id)
        if not seen.add(id):
            raise ValueError("duplicate id")
    except ValueError as error:
        return Reject(row.number, id, str(error))
    return Candidate(row.number, Product(id, b"", title, labels, split), picture)


def with_picture(candidate: Candidate | Reject, preprocess: PreprocessConfig) -> Product | Reject:
    """Read and decode the picture of a candidate, as training will."""
    if isinstance(candidate, Reject):
        return candidate
    product = candidate.product
    if candidate.picture is None:
        return product
    try:
        image = _bytes(candidate.picture, preprocess.max_image_bytes)
        decode_image(image, preprocess)
    except ValueError as error:
        return Reject(candidate.row, product.id, str(error))
    return Product(product.id, image, product.title, product.labels, product.split)


def _id(row: Row, columns: Columns) -> str:
    if columns.id is None:
        return str(row.number)
    cell = row.cells[columns.id]
    return "" if cell is None else str(cell).strip()


def _picture(cell: object, root: Path) -> bytes | Path | None:
    """Bytes, a path, or Hugging Face's {bytes, path}; None if there is no picture."""
    if isinstance(cell, dict):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell in ("", b""):
        return None
    if isinstance(cell, str):
        return root / cell.strip() if cell.strip() else None
    if not isinstance(cell, bytes):
        raise ValueError(f"picture is {type(cell).__name__}, expected a path or bytes")
    return cell


def _title(cell: object, preprocess: PreprocessConfig) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise ValueError(f"title is {type(cell).__name__}, expected text")
    return cell if clean_title(cell, preprocess.max_title_bytes) else ""


def _labels(task: TaskColumn, cell: object, known: frozenset[str]) -> str | list[str] | None:
    labels = labels_of(task, cell)
    unknown = [label for label in labels if label not in known]
    if unknown:
        raise ValueError(f"{task.name}: label {unknown[0]!r} is not among the {len(known)} known ones")
    return task.task.stored(labels) if labels else None


def _split(cell: object) -> str:
    if cell not in SPLITS:
        raise ValueError(f"split {cell!r}, expected one of {', '.join(SPLITS)}")
    return str(cell)


def _bytes(picture: bytes | Path, most: int) -> bytes:
    """The encoded picture; of a file one byte more than allowed is read at most."""
    if isinstance(picture, bytes):
        return picture
    try:
        with picture.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise ValueError(f"picture {picture}: {error.strerror}") from None
