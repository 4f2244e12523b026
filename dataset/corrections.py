"""What people decided about the labels of a catalogue: a table by id, laid over the catalogue's own cells.

Beside `id` it has, for any of the tasks, TASK (a label cell; of text that may hold several, they are parted by |) and
TASK_decided (true: TASK stands in place of the catalogue's label, and an empty TASK means that nobody can tell).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from dataset.labels import TaskColumn, labels_of
from dataset.products import Reject
from dataset.remarks import some_of
from dataset.rows import Decisions, Reading, check_columns, id_of
from dataset.table import CsvSource, ParquetSource, Row, Source, state_of
from model.refusal import Code, Refusal

ID, DECIDED = "id", "_decided"
WORDS = {"true": True, "false": False, "": False}


def read_corrections(path: Path, reading: Reading) -> Decisions:
    """All that is decided.

    Args:
        reading: of the catalogue: its tasks, and how it reads an id.
    Raises:
        ValueError: a column is missing, a cell is of no use, or a task of a product is decided in two ways.
    """
    source = _source(path)
    tasks = _tasks(path, source, reading.tasks)
    columns = [ID, *(name for task in tasks for name in (task.name, task.name + DECIDED))]
    check_columns(source, columns)
    by_id = replace(reading, columns=replace(reading.columns, id=ID))
    decisions: dict[str, dict[str, list[str] | None]] = {}
    for row in source.rows(columns, ID):
        if isinstance(row, Reject):
            raise ValueError(f"{path}: {row}; mend or remove this row")
        try:
            if decided := _decided(row, tasks):
                _add(decisions, id_of(row, by_id), decided)
        except Refusal as refusal:
            raise ValueError(f"{path}: row {row.number}: {refusal.detail}") from None
    return decisions


def state_of_corrections(path: Path) -> dict[str, int]:
    """Bytes and time, as dataset.table.state_of.

    Raises:
        ValueError: no such file.
    """
    return state_of(_source(path).files)


def said_of_corrections(decisions: Decisions, met: Collection[str]) -> str:
    """For the summary. `met`: those of the ids that the catalogue has."""
    said = f"corrections: {sum(len(decisions[id]) for id in met):,} labels of {len(met):,} products"
    lost = [id for id in decisions if id not in met]
    return said + (f"; {len(lost):,} ids are not in the table: {some_of(map(repr, lost))}" if lost else "")


def _source(path: Path) -> Source:
    return CsvSource(path) if path.suffix.lower() == ".csv" else ParquetSource(path)


def _tasks(path: Path, source: Source, tasks: Sequence[TaskColumn]) -> list[TaskColumn]:
    """Those that the file says something of; the catalogue's columns and separators are its own."""
    there = list(dict.fromkeys(name for _, names in source.headers() for name in names))
    for task in tasks:
        if task.name in there and task.name + DECIDED not in there:
            expected = f"{task.name + DECIDED!r}, true where the label counts and false where it does not"
            raise ValueError(f"{path}: column {task.name!r} stands alone; expected another one, {expected}")
    found = [TaskColumn(task.name, task.kind) for task in tasks if task.name + DECIDED in there]
    if not found:
        names = ", ".join(task.name for task in tasks)
        has = ", ".join(map(repr, there)) or "none"
        raise ValueError(f"{path}: no column of a task; expected TASK and TASK{DECIDED}, TASK of {names}; it has {has}")
    return found


def _decided(row: Row, tasks: Sequence[TaskColumn]) -> dict[str, list[str] | None]:
    return {task.name: labels_of(task, row.cells[task.name]) for task in tasks if _is_decided(row, task.name + DECIDED)}


def _is_decided(row: Row, column: str) -> bool:
    cell = row.cells[column]
    word = "" if cell is None or cell != cell else str(cell).strip().lower()  # NaN is not itself
    if word not in WORDS:
        raise Refusal(Code.ROW_UNUSABLE, f"{column} is {cell!r}, expected true or false")
    return WORDS[word]


def _add(decisions: dict[str, dict[str, list[str] | None]], id: str, decided: dict[str, list[str] | None]) -> None:
    """An id may stand in several rows, as long as they do not contradict each other."""
    before = decisions.setdefault(id, {})
    for task, labels in decided.items():
        first = before.setdefault(task, labels)
        if first != labels and (first is None or labels is None or set(first) != set(labels)):
            shown = " and ".join("nobody can tell" if each is None else str(each) for each in (first, labels))
            raise Refusal(Code.ROW_UNUSABLE, f"id {id!r} has two decisions on {task}: {shown}; keep one of its rows")
