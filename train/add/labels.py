"""Labels of a new task, by the ids of a data set's products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from dataset.cells import text_of
from dataset.labels import LabelRules, TaskColumn, labels_of, make_tasks
from dataset.products import Reject
from dataset.table import CsvSource, ParquetSource
from model.refusal import Refusal
from model.tasks import Task

ID = "id"

Labels = Mapping[str, str | list[str] | None]


def read_labels(path: Path, column: TaskColumn) -> tuple[Task, Labels]:
    """The task with the labels that occur, sorted, and the label of each id as a data set stores it.

    Args:
        path: CSV or Parquet with the columns `id` and the task's.
    Raises:
        ValueError: a column is missing, a row is of no use or contradicts another one, or the labels are too few.
    """
    source = CsvSource(path) if path.suffix.lower() == ".csv" else ParquetSource(path)
    names = {name for _, header in source.headers() for name in header}
    if missing := [name for name in (ID, column.column) if name not in names]:
        raise ValueError(f"{path}: no column {', '.join(map(repr, missing))}; it has {', '.join(sorted(names))}")
    counts, found = Counter[str](), dict[str, str | list[str] | None]()
    for row in source.rows([ID, column.column], ID):
        if isinstance(row, Reject):
            raise ValueError(f"{path}: {row}; mend or remove this row")
        try:
            labels, id = labels_of(column, row.cells[column.column]), text_of(row.cells[ID], "the id").strip()
        except Refusal as refusal:
            raise ValueError(f"{path}: row {row.number}: {refusal.detail}") from None
        if labels is None:
            continue
        value = column.task.stored(labels)
        if found.setdefault(id, value) != value:
            raise ValueError(f"{path}: row {row.number}: id {id!r} has another label in a row before; keep one of them")
        counts.update(labels)
    return make_tasks([column], {column.name: LabelRules().chosen(counts)}, LabelRules())[0], found
