"""The products that a batch run asks for: a CSV or Parquet table, or a split of a prepared data set, row by row."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import pyarrow.parquet as pq

from client.errors import ClassifierError, InvalidProduct
from client.protocol import Query, image_bytes
from dataset.format import DatasetInfo
from dataset.parallel import ordered_map
from dataset.rows import Candidate, Columns, Reading, SplitShares, read_row
from dataset.seen_ids import SeenIds
from dataset.table import CsvSource, ParquetSource, Row, Source
from dataset.writer import Reject
from model.config import PreprocessConfig

CODE = re.compile(r"[A-Z][A-Z0-9_]+(?=: )")
CODES = {
    "text is not UTF-8": "TXT_INVALID_UTF8",
    "neither title nor picture": "NO_MODALITY",
    "duplicate id": "DUPLICATE_ID",
    "no id": "NO_ID",
}
REPLACED = "\N{REPLACEMENT CHARACTER}"
NO_COLUMN = ""
READERS = 8
IDS_SHOWN = 5
Settings = dict[str, str | int | bool | None]


@dataclass(frozen=True)
class Entry:
    """A row of the table: its number from 1, its id, and the product or what is wrong with it."""

    row: int
    id: str
    product: Query


class LenientCsv(CsvSource):
    """A CSV file whose bytes that are no UTF-8 are read as U+FFFD."""

    def _open(self) -> TextIO:
        return self.files[0].open(encoding="utf-8-sig", errors="replace", newline="")


@dataclass
class Catalogue:
    """A table and which of its columns hold what.

    Attributes:
        settings: what the rows depend on; a table that changed counts as another one.
        replaced: titles in which bytes that are no UTF-8 were replaced, so far; replaced_ids: the first of them.
    """

    source: Source
    columns: Columns
    image_root: Path
    settings: Settings
    replaced: int = 0
    replaced_ids: list[str] = field(default_factory=list)

    def count(self) -> int:
        """Rows, for the progress bar."""
        if isinstance(self.source, ParquetSource):
            return sum(pq.read_metadata(path).num_rows for path in self.source.files)
        return sum(1 for _ in self.source.rows([]))

    def entries(self, skip: int = 0) -> Iterator[Entry]:
        """The rows in order, from the one after `skip`; files of pictures are read a little ahead."""
        rows = self._rows(skip)
        if isinstance(self.source, ParquetSource):
            return rows
        return ordered_map(ThreadPoolExecutor(READERS), _with_picture, rows, pending=4 * READERS)

    def _rows(self, skip: int) -> Iterator[Entry]:
        """Rows that are skipped still count for the search of duplicate ids."""
        seen = SeenIds()
        reading = Reading(self.columns, [], SplitShares(), self.image_root, PreprocessConfig())
        absent = {NO_COLUMN: None}
        for position, row in enumerate(self.source.rows([name for name in reading.used_columns() if name])):
            if isinstance(row, Row):
                row = Row(row.number, row.cells | absent)
            candidate = row if isinstance(row, Reject) else read_row(row, reading, {}, seen)
            if position >= skip:
                yield self._entry(candidate)

    def _entry(self, candidate: Candidate | Reject) -> Entry:
        if isinstance(candidate, Reject):
            return Entry(candidate.row, candidate.id, refusal(candidate.reason))
        product = candidate.product
        if isinstance(self.source, LenientCsv) and REPLACED in product.title:
            self.replaced += 1
            if len(self.replaced_ids) < IDS_SHOWN:
                self.replaced_ids.append(product.id)
        return Entry(candidate.row, product.id, (product.title, candidate.picture))


def refusal(reason: str) -> ClassifierError:
    """A row that needs no server to be refused, in the server's words where it has some."""
    known = CODES.get(reason)
    if known is None and not CODE.match(reason):
        known = "ROW_UNUSABLE"
    return InvalidProduct("INVALID_ARGUMENT", f"{known}: {reason}" if known else reason)


def _with_picture(entry: Entry) -> Entry:
    if isinstance(entry.product, ClassifierError):
        return entry
    title, picture = entry.product
    try:
        return Entry(entry.row, entry.id, (title, image_bytes(picture)))
    except OSError as error:
        return Entry(entry.row, entry.id, refusal(f"IMG_UNREADABLE: {error.filename}: {error.strerror}"))


def open_catalogue(options: argparse.Namespace) -> Catalogue:
    """The catalogue that the command line names.

    Raises:
        ValueError: a file or a column of it is missing.
    """
    source = _source(options)
    columns = Columns(options.image_column or NO_COLUMN, options.title_column or NO_COLUMN, options.id_column)
    if options.data:
        columns = Columns("image", "title", "id")
    there = source.columns()
    missing = [name for name in (columns.image, columns.title, columns.id) if name and name not in there]
    if missing:
        raise ValueError(f"{source.files[0]}: no column {', '.join(missing)}; it has {', '.join(there)}")
    return Catalogue(source, columns, options.image_root or source.root, _settings(options, source))


def _source(options: argparse.Namespace) -> Source:
    if options.data:
        return _split(options.data, options.split)
    if options.parquet:
        return ParquetSource(options.parquet)
    return LenientCsv(options.csv) if options.replace_invalid_utf8 else CsvSource(options.csv)


def _split(data: Path, split: str) -> ParquetSource:
    info = DatasetInfo.read(data)
    if split not in info.splits:
        raise ValueError(f"{data}: no split {split!r}, only {', '.join(info.splits)}")
    return ParquetSource(data / f"split={split}")


def _settings(options: argparse.Namespace, source: Source) -> Settings:
    names = ("csv", "parquet", "data", "split", "image_column", "title_column", "id_column", "image_root")
    states = [path.stat() for path in source.files]
    described: Settings = {name: _text(getattr(options, name)) for name in (*names, "replace_invalid_utf8")}
    return described | {
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max(state.st_mtime_ns for state in states),
    }


def _text(value: object) -> str | bool | None:
    if isinstance(value, Path):
        return str(value.resolve())
    return value if isinstance(value, bool) or value is None else str(value)
