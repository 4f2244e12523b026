"""Rows of a catalogue, one after the other, from CSV or Parquet; a spoilt row becomes a Reject."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.cells import id_for_people
from dataset.csv_records import Lines, read_header, read_records
from dataset.products import Reject
from model.refusal import Code

BATCH_ROWS = 64
READ_BUFFER_BYTES = 1 << 20


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
    Raises:
        ValueError: there is no such file.
    """

    def __init__(self, path: Path, replace: bool = False) -> None:
        if not path.is_file():
            raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        self.files = [path]
        self.root = path.parent
        self.replace = replace

    def headers(self) -> Iterator[tuple[Path, list[str]]]:
        """The file and its columns.

        Raises:
            ValueError: its first line is no header of text.
        """
        with self._open() as file:
            yield self.files[0], self._header(Lines(file))

    def rows(self, columns: list[str], id_column: str | None = None) -> Iterator[Row | Reject]:
        """Every row's cells of these columns, text as it stands; a reject says which line, and which id as it can."""
        with self._open() as file:
            lines = Lines(file)
            header = self._header(lines)
            places = {name: header.index(name) for name in columns}
            for number, record in enumerate(read_records(lines, len(header)), start=1):
                if not record.problem:
                    cells = {name: record.cells[place] for name, place in places.items()}
                    spoilt = [name for name, cell in cells.items() if not _is_utf8(cell)]
                    if not spoilt:
                        yield Row(number, dict(cells))
                        continue
                id = _cell_of(record.cells, None if id_column is None else header.index(id_column))
                code = Code.ROW_UNUSABLE if record.problem else Code.TXT_INVALID_UTF8
                problem = record.problem or f"{spoilt[0]} is not UTF-8"
                yield Reject(number, id_for_people(id), code, f"line {record.line}: {problem}")

    def count(self) -> int:
        """Rows, the unusable ones too."""
        return sum(1 for _ in self.rows([]))

    def _header(self, lines: Lines) -> list[str]:
        try:
            header = read_header(lines)
        except ValueError as error:
            raise ValueError(f"{self.files[0]}: {error}") from None
        if any("\0" in name or not _is_utf8(name) for name in header):
            raise ValueError(f"{self.files[0]}: line 1: not UTF-8; expected a table of plain text in UTF-8")
        return header

    def _open(self) -> TextIO:
        errors = "replace" if self.replace else "surrogateescape"
        return self.files[0].open(encoding="utf-8-sig", errors=errors, newline="")


class ParquetSource:
    """A Parquet file, or all those below a directory in the order of their names.

    What Spark, Jupyter and macOS leave there is passed over: names that begin with a dot or an underscore.
    """

    def __init__(self, path: Path) -> None:
        self.files = [path]
        self.root = path.parent
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.parquet") if file.is_file())
            self.files = [file for file in found if not any(map(_is_hidden, file.relative_to(path).parts))]
            self.root = path
        if not self.files or not self.files[0].is_file():
            raise ValueError(f"{path}: no such file, or a directory without *.parquet files")

    def headers(self) -> Iterator[tuple[Path, list[str]]]:
        """Each file and its columns."""
        return ((path, _open_parquet(path).schema_arrow.names) for path in self.files)

    def rows(self, columns: list[str], id_column: str | None = None) -> Iterator[Row | Reject]:
        """Every row's cells of these columns as Python values.

        Raises:
            ValueError: a later file lacks a column or is damaged.
        """
        number = 0
        for path in self.files:
            for cells in _parquet_rows(path, columns):
                number += 1
                if isinstance(cells, dict):
                    yield Row(number, cells)
                else:
                    yield _spoilt_row(number, cells, id_column)

    def count(self) -> int:
        """Rows, the unusable ones too."""
        return sum(_open_parquet(path).metadata.num_rows for path in self.files)


Source = CsvSource | ParquetSource


def _cell_of(cells: list[str], place: int | None) -> str:
    return cells[place] if place is not None and place < len(cells) else ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_hidden(name: str) -> bool:
    """As Spark and Arrow see it; `_key=value` is a partition."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, buffer_size=READ_BUFFER_BYTES, pre_buffer=False)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: not a Parquet file ({error})") from None


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, object] | pa.RecordBatch]:
    """The rows of one file; a row that cannot be read as a batch of its own."""
    file = _open_parquet(path)
    missing = [name for name in columns if name not in file.schema_arrow.names]
    if missing:
        raise ValueError(f"{path}: no column {missing}; it has {file.schema_arrow.names}")
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield from _as_dicts(batch)
    except (pa.ArrowException, OSError) as error:  # Arrow says OSError of bytes that do not decompress
        raise ValueError(f"{path}: damaged ({error})") from None


def _as_dicts(batch: pa.RecordBatch) -> list[dict[str, object] | pa.RecordBatch]:
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):  # text that is not UTF-8; a date that Python cannot hold
        if batch.num_rows == 1:
            return [batch]
        return [row for n in range(batch.num_rows) for row in _as_dicts(batch.slice(n, 1))]


def _spoilt_row(number: int, row: pa.RecordBatch, id_column: str | None) -> Reject:
    """What is wrong with a row that Python cannot hold, cell by cell."""
    cells: dict[str, object] = {}
    for name in row.schema.names:
        try:
            cells[name] = row.column(name)[0].as_py()
        except UnicodeDecodeError as error:
            reason = (Code.TXT_INVALID_UTF8, f"{name} is not UTF-8 at position {error.start}")
        except (ValueError, OverflowError, pa.ArrowException) as error:
            reason = (Code.ROW_UNUSABLE, f"{name} cannot be read ({error})")
    return Reject(number, id_for_people(cells.get(id_column or "")), *reason)
