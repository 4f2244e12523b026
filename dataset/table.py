"""Rows of a catalogue, one after the other, from CSV or Parquet; a spoilt row becomes a Reject."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.products import Reject
from model.refusal import Code

BATCH_ROWS = 64
READ_BUFFER_BYTES = 1 << 20
NOT_UTF8 = "text is not UTF-8"


@dataclass(frozen=True)
class Row:
    """`number` counts the data rows from 1; `cells`: column -> value."""

    number: int
    cells: dict[str, object]


def state_of(files: Iterable[Path]) -> dict[str, int]:
    """Bytes of all the files together, and when the last of them was written to."""
    states = [path.stat() for path in files]
    return {"bytes": sum(state.st_size for state in states), "modified_ns": max(state.st_mtime_ns for state in states)}


class CsvSource:
    """A comma-separated UTF-8 file with a header; blank lines are not counted.

    Args:
        replace: bytes that are no UTF-8 are read as U+FFFD; otherwise they cost their own row.
    """

    def __init__(self, path: Path, replace: bool = False) -> None:
        if not path.is_file():
            raise ValueError(f"{path}: no such file")
        self.files = [path]
        self.root = path.parent
        self.replace = replace

    def columns(self) -> list[str]:
        """The header."""
        with self._open() as file:
            return next(csv.reader(file), [])

    def rows(self, columns: list[str]) -> Iterator[Row | Reject]:
        """Every row's cells of these columns, text as it stands."""
        with self._open() as file:
            reader = csv.reader(file)
            header = next(reader)
            places = {name: header.index(name) for name in columns}
            for number, cells in _numbered(reader):
                if isinstance(cells, csv.Error):
                    yield Reject(number, "", Code.ROW_UNUSABLE, f"not a CSV row: {cells}")
                elif len(cells) != len(header):
                    yield Reject(number, "", Code.ROW_UNUSABLE, f"{len(cells)} cells, the header has {len(header)}")
                elif not all(_is_utf8(cells[place]) for place in places.values()):
                    yield Reject(number, "", Code.TXT_INVALID_UTF8, NOT_UTF8)
                else:
                    yield Row(number, {name: cells[place] for name, place in places.items()})

    def count(self) -> int:
        """Rows, the unusable ones too."""
        return sum(1 for _ in self.rows([]))

    def _open(self) -> TextIO:
        errors = "replace" if self.replace else "surrogateescape"
        return self.files[0].open(encoding="utf-8-sig", errors=errors, newline="")


class ParquetSource:
    """A Parquet file, or all those below a directory in the order of their names."""

    def __init__(self, path: Path) -> None:
        self.files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        if not self.files or not self.files[0].is_file():
            raise ValueError(f"{path}: no such file, or a directory without *.parquet files")
        self.root = path if path.is_dir() else path.parent

    def columns(self) -> list[str]:
        """The columns of the first file."""
        return _open_parquet(self.files[0]).schema_arrow.names

    def rows(self, columns: list[str]) -> Iterator[Row | Reject]:
        """Every row's cells of these columns as Python values.

        Raises:
            ValueError: a later file lacks a column or is damaged.
        """
        number = 0
        for path in self.files:
            for cells in _parquet_rows(path, columns):
                number += 1
                spoilt = Reject(number, "", Code.TXT_INVALID_UTF8, NOT_UTF8)
                yield spoilt if cells is None else Row(number, cells)

    def count(self) -> int:
        """Rows, the unusable ones too."""
        return sum(_open_parquet(path).metadata.num_rows for path in self.files)


Source = CsvSource | ParquetSource


def _numbered(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str] | csv.Error]]:
    number = 0
    while True:
        cells: list[str] | csv.Error | None
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells = error
        if cells is None:
            return
        if cells != []:
            number += 1
            yield number, cells


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, object] | None]:
    """The rows of one file; None for one whose text is not UTF-8."""
    file = _open_parquet(path)
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise ValueError(f"{path}: no column {missing}; it has {file.schema_arrow.names}")
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield from _as_dicts(batch)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _as_dicts(batch: pa.RecordBatch) -> list[dict[str, object] | None]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for n in range(batch.num_rows) for row in _as_dicts(batch.slice(n, 1))]
