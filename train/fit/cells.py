"""What the cells of a column look like: text, numbers, values that repeat, several labels in one."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, time

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.label_values import MISSING_WORDS, folded, listed
from dataset.rows import label_cell
from dataset.table import ParquetSource, Row, Source

LOOKED = 50_000  # rows
MOST_VALUES = 20_000  # that are counted
SEVERAL = 0.05  # the least share of cells that hold several labels, where a column's may
SEPARATORS = ("|", ";", ",")
LEAST_REPEATED = 5  # rows a value of a column of labels, on average
NUMBER = re.compile(r"[-+]?[0-9]+(?:[.,][0-9]+)?")
DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:$|[T ])")


@dataclass
class Cells:
    """Of the first rows of one column; empty cells count nowhere.

    Attributes:
        lists: cells that are a list, or a list written as text.
        values: text -> rows; counting ends at MOST_VALUES.
    """

    name: str
    filled: int = 0
    words: int = 0
    numbers: int = 0
    dates: int = 0
    lists: int = 0
    values: Counter[str] = field(default_factory=Counter)

    def add(self, cell: object) -> None:
        items = cell if isinstance(cell, list) else listed(cell) if isinstance(cell, str) else None
        for text in map(label_cell, items if items is not None else [cell]):
            if text and folded(text) not in MISSING_WORDS and (text in self.values or len(self.values) < MOST_VALUES):
                self.values[text] += 1
        text = label_cell(cell)
        if text:
            self.filled += 1
            self.lists += items is not None
            self.words += len(text.split())
            self.numbers += bool(NUMBER.fullmatch(text))
            self.dates += isinstance(cell, date | time) or bool(DATE.match(text))

    @property
    def is_unique(self) -> bool:
        return self.filled > 0 and max(self.values.values(), default=2) == 1

    @property
    def words_a_cell(self) -> float:
        return self.words / max(1, self.filled)

    def labels(self) -> tuple[str, str]:
        """Kind and separator of the task that this column is.

        Raises:
            ValueError: it is none; why.
        """
        if self.lists >= SEVERAL * self.filled > 0:
            self._check_repeating(self.values)
            return "multi_label", "|"
        for separator in SEPARATORS:
            parts: Counter[str] = Counter()
            for text, rows in self.values.items():
                parts.update(dict.fromkeys(filter(None, map(str.strip, text.split(separator))), rows))
            several = sum(rows for text, rows in self.values.items() if separator in text)
            if several >= SEVERAL * self.filled > 0 and len(parts) < len(self.values):
                self._check_repeating(parts)
                return "multi_label", separator
        self._check_repeating(self.values)
        return "single_label", "|"

    def why_not_guessed(self) -> str | None:
        """Why nobody would take it for labels who was not told so."""
        if self.filled and self.dates > self.filled / 2:
            return "dates"
        if self.filled and self.numbers > self.filled / 2:
            return "numbers"
        return None

    def _check_repeating(self, labels: Counter[str]) -> None:
        if len(labels) < 2:
            raise ValueError(f"one value only, {next(iter(labels))!r}" if labels else "empty")
        if labels.total() < LEAST_REPEATED * len(labels):
            raise ValueError(f"{len(labels):,} different values in {self.filled:,} rows")


def read_cells(source: Source) -> dict[str, Cells]:
    """Column -> what its cells look like, of all columns but encoded ones."""
    hidden = encoded_columns(source)
    names = [name for name in column_names(source) if name not in hidden]
    cells = {name: Cells(name) for name in names}
    for row in itertools.islice(source.rows(names), LOOKED):
        if isinstance(row, Row):
            for name, cell in row.cells.items():
                cells[name].add(cell)
    return cells


def column_names(source: Source) -> list[str]:
    return list(dict.fromkeys(name for _, names in source.headers() for name in names))


def encoded_columns(source: Source) -> list[str]:
    """Columns of bytes or of structures, which may hold images and are large."""
    if not isinstance(source, ParquetSource):
        return []
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_struct)
    schemas: Iterable[pa.Schema] = map(pq.read_schema, source.files)
    return [column.name for schema in schemas for column in schema if any(test(column.type) for test in tests)]
