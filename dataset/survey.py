"""What a catalogue holds, read once before any product is made: labels, splits, titles that repeat, image files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.cells import value_of
from dataset.duplicates import Twin
from dataset.image_cells import place_of, read_image
from dataset.label_values import folded
from dataset.labels import MOST_LABELS, LabelRules, TaskColumn, labels_of
from dataset.products import Reject
from dataset.rows import Reading, cell_of, id_of, label_cell, unread_products
from dataset.seen_ids import SeenIds, hash_of
from dataset.table import CsvSource, ParquetSource, Row, Source
from model.refusal import Refusal

MOST_SPLITS = 1000


@dataclass
class Survey:
    """Of all rows that can be read.

    Attributes:
        rows: the unusable ones too.
        labels: task -> label as a cell has it -> rows.
        unusable: task -> why a cell is of no use, for the first such row.
        splits: text of the split column -> rows.
        repeated: hashes of titles that more than one row has.
        decided: ids of rows, rejected ones too, of which labels were decided.
        images: changes when an image file that a row names comes, goes or is written to.
    """

    rows: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    unusable: dict[str, str] = field(default_factory=dict)
    splits: Counter[str] = field(default_factory=Counter)
    repeated: set[int] = field(default_factory=set)
    decided: set[str] = field(default_factory=set)
    images: str = ""


def survey(source: Source, reading: Reading) -> Survey:
    """Read all columns but encoded images, once.

    Raises:
        ValueError: a column holds so many labels that it cannot be one of them, or the table is damaged.
    """
    found, titles, files = Survey(), SeenIds(), _Files(reading.image_root)
    columns = reading.columns
    paths = columns.image if columns.image and _holds_text(source, columns.image) else None
    ids = columns.id if reading.decisions else None
    wanted = (ids, columns.title, columns.split, paths, *(task.column for task in reading.tasks))
    for row in source.rows(list(dict.fromkeys(name for name in wanted if name is not None)), ids):
        found.rows += 1
        if reading.decisions and (id := _id_of(row, reading)) in reading.decisions:
            found.decided.add(id)
        if isinstance(row, Row):
            cells = reading.label_cells(row)
            for task in reading.tasks:
                _note(found, task, row.number, cells[task.name], reading.rules)
            if len(found.splits) < MOST_SPLITS:
                found.splits[label_cell(cell_of(row, columns.split))] += 1
            title = _title_key(cell_of(row, columns.title), reading)
            if not titles.add(title):
                found.repeated.add(hash_of(title))
            files.add(cell_of(row, paths))
    for path in _struct_paths(source, columns.image):
        files.add(path)
    return replace(found, images=files.digest.hexdigest())


def twins(source: Source, reading: Reading, repeated: set[int]) -> Iterator[Twin]:
    """The products of which another one may be a copy: those with a title that repeats, by the bytes of their image."""
    for row in unread_products(source, replace(reading, tasks=[]), []) if repeated else ():
        if isinstance(row, Reject):
            continue
        title = _title_key(row.product.title, reading)
        if hash_of(title) not in repeated:
            continue
        try:
            image = read_image(row.image, reading.preprocess.max_image_bytes)
        except Exception:
            continue  # it will be refused, or an incident, when it is made
        content = b"\0".join((title.encode(), image))
        yield Twin(row.product.id, row.group, row.product.split, content)


def _title_key(title: object, reading: Reading) -> str:
    """Equal for titles that read the same; empty for what counts as none."""
    key = label_cell(value_of(title, reading.keep_literal_nan))
    return key if key.isascii() or folded(key) else ""


class _Files:
    def __init__(self, root: Path) -> None:
        self.root, self.digest = root, hashlib.blake2b(digest_size=8)

    def add(self, cell: object) -> None:
        if not isinstance(cell, str) or not cell.strip():
            return
        try:
            state = os.stat(place_of(cell, self.root) or "")
            self.digest.update(f"{cell}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
        except (OSError, ValueError):  # a Refusal, too
            self.digest.update(f"{cell}\0\n".encode())


def _holds_text(source: Source, column: str) -> bool:
    """Whether a column names files; encoded images are covered by the state of the table."""
    if isinstance(source, CsvSource):
        return True
    types = [pq.read_schema(file).field(column).type for file in source.files]
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    return any(test(type) for test in tests for type in types)


def _struct_paths(source: Source, column: str | None) -> Iterator[object]:
    """The paths of Hugging Face's {bytes, path}, without the bytes."""
    for file in source.files if isinstance(source, ParquetSource) and column else ():
        type = pq.read_schema(file).field(column).type
        if pa.types.is_struct(type) and type.get_field_index("path") >= 0:
            for batch in pq.ParquetFile(file).iter_batches(columns=[f"{column}.path"]):
                yield from batch.column(0).field("path").to_pylist()


def _id_of(row: Row | Reject, reading: Reading) -> str:
    """As far as it can be told."""
    if isinstance(row, Reject):
        return row.id if reading.columns.id else str(row.row)
    try:
        return id_of(row, reading)
    except Refusal:
        return ""


def _note(found: Survey, task: TaskColumn, row: int, cell: object, rules: LabelRules) -> None:
    counts = found.labels.setdefault(task.name, Counter())
    try:
        counts.update(labels_of(task, cell, rules.missing) or ())
    except Exception as error:  # the row will be refused, or an incident, when it is read for its product
        detail = error.detail if isinstance(error, Refusal) else str(error)
        found.unusable.setdefault(task.name, f"row {row}: {detail}")
    if len(counts) > MOST_LABELS:
        raise ValueError(f"column {task.column} holds more than {MOST_LABELS:,} labels; is it one of labels?")
