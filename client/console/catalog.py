"""The products of a data set as the console walks through them: in a table of SQLite, so that memory stays flat."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from client.console.answers import Answer, dump, read_answers
from client.console.decisions import Decisions
from client.console.order import Doubts, Order, read_doubts
from dataset.format import DatasetInfo
from dataset.stored import StoredRows
from model.tasks import TaskSet

CACHED_ROW_GROUPS = 4
# rank: the order of the queue. drawn: that of the sample by chance; null where no answer is accepted.
TABLES = """
CREATE TEMP TABLE product (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, split TEXT NOT NULL, row INTEGER NOT NULL, title TEXT NOT NULL,
    given TEXT NOT NULL, said TEXT, likely TEXT NOT NULL, task TEXT NOT NULL, reason TEXT NOT NULL, rank INTEGER,
    drawn INTEGER);
CREATE TEMP TABLE answer (product TEXT PRIMARY KEY, said TEXT NOT NULL);
"""
COLUMNS = "place, id, split, row, title, given, said, likely, task, reason"
PLACES = ", ".join("?" * len(COLUMNS.split()))


class Product(NamedTuple):
    """A product but for its image.

    Attributes:
        place: counts through all splits; what pages name it by.
        row: its place in the split.
        given: task -> labels of the data set; None where it has none.
        said: what a model says; None where nobody was asked.
        likely: task -> label, where an audit doubts the given one.
        task, reason: what a look is for, as dataset.review_order.Look.
    """

    place: int
    id: str
    split: str
    row: int
    title: str
    given: dict[str, list[str] | None]
    said: Answer | None
    likely: dict[str, str]
    task: str
    reason: str

    @classmethod
    def of(cls, values: tuple[Any, ...]) -> Product:
        place, id, split, row, title, given, said, likely, task, reason = values
        answer = json.loads(said) if said else None
        return cls(place, id, split, row, title, json.loads(given), answer, json.loads(likely), task, reason)


class Catalog:
    """All splits of a data set, or one.

    Args:
        decisions: whose connection holds the table.
        answers: Parquet of `cma-clip predict`; audit: folder of `cma-clip audit`.
    Attributes:
        answered: how many products have an answer in `answers`.
    Raises:
        ValueError: a file does not fit, or two products have one id.
    """

    def __init__(
        self,
        directory: Path,
        decisions: Decisions,
        split: str | None = None,
        answers: Path | None = None,
        audit: Path | None = None,
    ) -> None:
        self.info = DatasetInfo.read(directory)
        self.tasks = self.info.tasks
        if split is not None and split not in self.info.splits:
            raise ValueError(f"--split {split}: {directory} has {', '.join(self.info.splits)}")
        names = [name for name in self.info.splits if split in (None, name)]
        self.rows: dict[str, StoredRows] = {name: StoredRows(directory, name, CACHED_ROW_GROUPS) for name in names}
        self.counts = _label_counts(self.info, self.tasks)
        self.reading = threading.Lock()
        self.decisions = decisions
        connection = decisions.connection
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute("BEGIN")
        try:
            if answers:
                told = ((id, dump(answer)) for id, answer in read_answers(answers, self.tasks))
                connection.executemany("INSERT OR REPLACE INTO answer VALUES (?, ?)", told)
            self._fill(read_doubts(audit, self.tasks) if audit else {})
        finally:
            connection.execute("COMMIT")
        connection.execute("CREATE INDEX temp.by_rank ON product (rank)")
        connection.execute("CREATE INDEX temp.by_draw ON product (drawn)")
        (self.answered,) = decisions.one("SELECT count(said) FROM product")
        if answers and not self.answered:
            raise ValueError(f"--answers {answers}: none of its ids is a product of {directory}")

    def __len__(self) -> int:
        return sum(rows.starts[-1] for rows in self.rows.values())

    def _fill(self, doubts: Doubts) -> None:
        """Every product, then the order of all."""
        connection, order = self.decisions.connection, Order(self.tasks, self.counts)
        for place, (split, row, stored) in enumerate(self._stored()):
            given = {task.name: _labels(task.several_labels, stored[task.name]) for task in self.tasks}
            (said,) = self.decisions.one("SELECT said FROM answer WHERE product = ?", stored["id"])
            doubted = doubts.get((split, stored["id"]), {})
            look = order.add(given, json.loads(said) if said else None, doubted)
            likely = json.dumps({task: doubt.likely for task, doubt in doubted.items()})
            known = (stored["title"] or "", json.dumps(given), said, likely, look.task, look.reason)
            values = (place, stored["id"], split, row, *known)
            added = connection.execute(f"INSERT OR IGNORE INTO product ({COLUMNS}) VALUES ({PLACES})", values)
            if not added.rowcount:
                raise ValueError(f"{self.rows[split].name}: two products have the id {stored['id']!r}")
        queue_N, drawn_N = order.places(seed=int(self.info.hash[:8], 16))
        connection.executemany("UPDATE product SET rank = ? WHERE place = ?", enumerate(queue_N.tolist()))
        sample = ((drawn, place) for place, drawn in enumerate(drawn_N.tolist()) if drawn >= 0)
        connection.executemany("UPDATE product SET drawn = ? WHERE place = ?", sample)

    def _stored(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        columns = ("id", "title", *(task.name for task in self.tasks))
        for split, rows in self.rows.items():
            row = 0
            for group in rows.in_groups(*columns):
                for values in zip(*(group[name] for name in columns), strict=True):
                    yield split, row, dict(zip(columns, values, strict=True))
                    row += 1

    def product(self, place: int) -> Product | None:
        rows = self.decisions.all(f"SELECT {COLUMNS} FROM product WHERE place = ?", place)
        return Product.of(rows[0]) if rows else None

    def place_of(self, id: str) -> int | None:
        place: int | None = self.decisions.one("SELECT place FROM product WHERE id = ?", id)[0]
        return place

    def remember(self, place: int, answer: Answer) -> None:
        """What a server has just said of a product."""
        with self.decisions.lock:
            self.decisions.connection.execute("UPDATE product SET said = ? WHERE place = ?", (dump(answer), place))

    def image(self, product: Product) -> bytes:
        """Its encoded image; empty where it has none."""
        with self.reading:
            return self.rows[product.split].product(product.row)["image"] or b""


def _label_counts(info: DatasetInfo, tasks: TaskSet) -> dict[str, dict[str, int]]:
    return {
        task.name: {
            label: sum(split.label_counts[task.name].get(label, 0) for split in info.splits.values())
            for label in task.labels
        }
        for task in tasks
    }


def _labels(several: bool, stored: Any) -> list[str] | None:
    return stored if several or stored is None else [stored]
