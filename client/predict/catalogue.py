"""The products that a batch run asks for: a CSV or Parquet table, or a split of a prepared data set, row by row."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from client.errors import InvalidProduct
from client.protocol import Query
from dataset.format import DatasetInfo, Settings
from dataset.image_cells import read_image
from dataset.incidents import INTERNAL, incident
from dataset.parallel import ordered_map
from dataset.products import Reject
from dataset.rows import Columns, Reading, UnreadProduct, unread_products
from dataset.table import CsvSource, ParquetSource, Source, state_of
from model.refusal import Refusal

REPLACED = "\N{REPLACEMENT CHARACTER}"
READERS = 8
IDS_SHOWN = 5
OPTIONS = ("csv", "parquet", "data", "split", "image_column", "title_column", "id_column", "image_root")
READINGS = ("replace_invalid_utf8", "keep_literal_nan", "allow_outside")


@dataclass(frozen=True)
class Entry:
    """A row of the table: its number from 1, its id, and what to ask for it, or why nothing is asked."""

    row: int
    id: str
    query: Query


@dataclass
class Catalogue:
    """A table and which of its columns hold what.

    Attributes:
        settings: what the rows depend on; a table that changed counts as another one.
        inside: the folder that files of images must lie in; None: anywhere.
        replaced: titles in which bytes that are no UTF-8 were replaced, so far; replaced_ids: the first of them.
    """

    source: Source
    reading: Reading
    settings: Settings
    inside: Path | None = None
    replaced: int = 0
    replaced_ids: list[str] = field(default_factory=list)

    def entries(self, done: Iterable[range] = ()) -> AbstractContextManager[Iterator[Entry]]:
        """Within it, the rows in order but those of these numbers; files of images are read a little ahead."""
        return ordered_map(
            ThreadPoolExecutor(READERS, thread_name_prefix="reads images"),
            self._entry,
            self._rows(deque(done)),
            pending=4 * READERS,
        )

    def _rows(self, done: deque[range]) -> Iterator[UnreadProduct | Reject]:
        """Rows that are left out still count for the search of duplicate ids."""
        for row in unread_products(self.source, self.reading, []):
            while done and row.row > done[0][-1]:
                done.popleft()
            if done and row.row in done[0]:
                continue
            if isinstance(row, UnreadProduct):
                self._count_replaced(row)
            yield row

    def _count_replaced(self, row: UnreadProduct) -> None:
        if isinstance(self.source, CsvSource) and self.source.replace and REPLACED in row.product.title:
            self.replaced += 1
            if len(self.replaced_ids) < IDS_SHOWN:
                self.replaced_ids.append(row.product.id)

    def _entry(self, row: UnreadProduct | Reject) -> Entry:
        if isinstance(row, Reject):
            return Entry(row.row, row.id, _refused(row.code, row.detail))
        try:
            image = read_image(row.image, self.reading.preprocess.max_image_bytes, self.inside)
            query: Query = (row.product.title, image)
        except Refusal as refusal:
            query = _refused(refusal.code, refusal.detail)
        except Exception as error:
            query = _refused(INTERNAL, incident(row.row, row.product.id, error).detail)
        return Entry(row.row, row.product.id, query)


def _refused(code: str, detail: str) -> InvalidProduct:
    """A row that needs no server to be refused, as a server would."""
    return InvalidProduct("INVALID_ARGUMENT", f"{code}: {detail}", str(code))


def open_catalogue(options: argparse.Namespace) -> Catalogue:
    """The catalogue that the command line names.

    Raises:
        ValueError: a file or a column of it is missing.
    """
    source = _source(options)
    columns = Columns(options.image_column, options.title_column, options.id_column)
    if options.data:
        columns = Columns("image", "title", "id")
    root = options.image_root or source.root
    if not root.is_dir():
        raise ValueError(f"--image-root {root}: no such folder")
    # What a data set holds was read from its table already.
    reading = Reading(columns, root, keep_literal_nan=options.keep_literal_nan or bool(options.data))
    reading.check_columns(source)
    return Catalogue(source, reading, _settings(options, source), None if options.allow_outside else root)


def _source(options: argparse.Namespace) -> Source:
    if options.data:
        info = DatasetInfo.read(options.data)
        if options.split not in info.splits:
            raise ValueError(f"{options.data}: no split {options.split!r}, only {', '.join(info.splits)}")
        return ParquetSource(options.data / f"split={options.split}")
    if options.parquet:
        return ParquetSource(options.parquet)
    return CsvSource(options.csv, replace=options.replace_invalid_utf8)


def _settings(options: argparse.Namespace, source: Source) -> Settings:
    described: Settings = {name: _text(getattr(options, name)) for name in OPTIONS}
    return described | {name: getattr(options, name) for name in READINGS} | state_of(source.files)


def _text(value: object) -> str | None:
    if value is None:
        return None
    return str(value.resolve() if isinstance(value, Path) else value)
