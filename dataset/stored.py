"""The rows of a data set's shards, by their place in a split."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.format import DatasetInfo

CACHE_BYTES = 2 << 30  # of row groups in a process; above it they would be shuffled among fewer


class StoredRows:
    """One split of a data set, read a row group at a time.

    Args:
        directory: of the data set.
        split: train, validation or test.
        cached_row_groups: row groups that each process keeps in memory, fewer if they are more than CACHE_BYTES.
    Attributes:
        row_groups: path and number of each.
        starts: the place of each one's first row, and behind them the number of rows.
    Raises:
        ValueError: the split is missing or empty, or a shard is missing, unreadable or of another length.
    """

    def __init__(self, directory: Path, split: str, cached_row_groups: int) -> None:
        info = DatasetInfo.read(directory)
        if split not in info.splits or info.splits[split].rows == 0:
            raise ValueError(f"{directory}: the split {split!r} has no products; it has {sorted(info.splits)}")
        self.name = f"{directory}, split {split!r}"
        self.row_groups: list[tuple[Path, int]] = []
        self.starts, largest = [0], 1
        for shard in info.splits[split].shards:
            for index, (rows, size) in enumerate(_row_groups(directory / shard.file, shard.rows)):
                self.row_groups.append((directory / shard.file, index))
                self.starts.append(self.starts[-1] + rows)
                largest = max(largest, size)
        self.cache_size = max(1, min(cached_row_groups, CACHE_BYTES // largest))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def product(self, index: int) -> dict[str, Any]:
        """The row as it is stored: id, image bytes, title, labels.

        A title that is no UTF-8 has surrogates in it, which `clean_title` refuses.
        """
        group = bisect.bisect_right(self.starts, index) - 1
        row = self._table(group).slice(index - self.starts[group], 1)
        errors = {"title": "surrogateescape"}
        return {name: _values(row[name], errors.get(name, "backslashreplace"))[0] for name in row.column_names}

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """Columns of the whole split, as they are stored."""
        groups = list(self.in_groups(*names))
        return {name: [value for group in groups for value in group[name]] for name in names}

    def in_groups(self, *names: str) -> Iterator[dict[str, list[Any]]]:
        """The same, a row group at a time."""
        for group in range(len(self.row_groups)):
            table = self._read(group, names)
            yield {name: _values(table[name], "backslashreplace") for name in table.column_names}

    def _table(self, group: int) -> pa.Table:
        if group not in self._cache:
            if len(self._cache) >= self.cache_size:
                self._cache.popitem(last=False)
            self._cache[group] = self._read(group)
        self._cache.move_to_end(group)
        return self._cache[group]

    def _read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        path, index = self.row_groups[group]
        try:
            return pq.ParquetFile(path).read_row_group(index, columns=columns and list(columns))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path}: row group {index} is unreadable: {error}; prepare the data again") from error


def _values(column: pa.ChunkedArray, errors: str) -> list[Any]:
    """A column as Python has it; bytes that are no UTF-8 in a column of text are decoded as `errors` says."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if pa.types.is_list(column.type):
            lists = column.cast(pa.list_(pa.binary())).to_pylist()
            return [value and [text.decode(errors=errors) for text in value] for value in lists]
        texts = column.cast(pa.binary()).to_pylist()
        return [text if text is None else text.decode(errors=errors) for text in texts]


def _row_groups(path: Path, rows: int) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); prepare the data again") from error
    if metadata.num_rows != rows:
        raise ValueError(f"{path}: {metadata.num_rows} rows, dataset.json says {rows}; prepare the data again")
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]
