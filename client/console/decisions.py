"""What people decided, in one SQLite file: each decision is on the disk before the next product is shown."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

LEASE_S = 600.0  # so long a product that one person looks at is shown to nobody else
BUSY_S = 10.0  # another console may be writing
TABLES = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS decision (
    number INTEGER PRIMARY KEY AUTOINCREMENT, product TEXT NOT NULL, kind TEXT NOT NULL, sampled INTEGER NOT NULL,
    labels TEXT NOT NULL, said TEXT NOT NULL, reviewer TEXT NOT NULL, session TEXT NOT NULL, at TEXT NOT NULL,
    undone TEXT);
CREATE INDEX IF NOT EXISTS of_product ON decision (product);
CREATE INDEX IF NOT EXISTS of_session ON decision (session);
CREATE UNIQUE INDEX IF NOT EXISTS one_each ON decision (product) WHERE kind = 'decided' AND undone IS NULL;
CREATE TABLE IF NOT EXISTS lease (product TEXT PRIMARY KEY, session TEXT NOT NULL, until REAL NOT NULL);
"""
COLUMNS = "number, product, labels, said, sampled, reviewer, at"

Labels = dict[str, list[str] | None]


class Reviewer(NamedTuple):
    """Who looks: the name that decisions keep, and the browser by which leases and undo go."""

    name: str
    session: str


class Decision(NamedTuple):
    """One that holds.

    Attributes:
        number: counts all that were ever made, from 1.
        product: its id.
        labels: task -> labels; None where nobody can tell. Only tasks that were decided.
        said: what the model had said, as client.console.answers.
        sampled: whether it belongs to a sample by chance.
        at: UTC, ISO 8601.
    """

    number: int
    product: str
    labels: Labels
    said: dict[str, Any]
    sampled: bool
    reviewer: str
    at: str

    @classmethod
    def of(cls, row: tuple[Any, ...]) -> Decision:
        number, product, labels, said, sampled, reviewer, at = row
        return cls(number, product, json.loads(labels), json.loads(said), bool(sampled), reviewer, at)


class Outdated(Exception):
    """Somebody has decided the product since the page was made; the message says who."""


class Decisions:
    """The file.

    Args:
        path: made where it is not there.
        label_set: of the data set; a file of another one is refused.
        read_only: nothing is written, and the file must be there.
    Attributes:
        undone: how often something was taken back here.
    Raises:
        ValueError: it is not such a file, or of another label set.
    """

    def __init__(self, path: Path, label_set: str, read_only: bool = False) -> None:
        if read_only and not path.is_file():
            raise ValueError(f"{path}: no decisions to read; without --read-only they are made there")
        mode = "ro" if read_only else "rwc"
        uri = f"{path.absolute().as_uri()}?mode={mode}"
        self.lock = threading.RLock()
        self.read_only, self.undone = read_only, 0
        try:
            self.connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            self._begin(path, label_set)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{path}: no file of decisions ({error}); name another one by --decisions") from None

    def _begin(self, path: Path, label_set: str) -> None:
        if not self.read_only:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            with self.writing():
                for statement in TABLES.split(";"):
                    self.connection.execute(statement)
                values = [
                    ("label_set", label_set),
                    *((name, secrets.token_urlsafe(32)) for name in ("secret", "token")),
                ]
                self.connection.executemany("INSERT OR IGNORE INTO about VALUES (?, ?)", values)
        theirs = self.about("label_set")
        if theirs != label_set:
            raise ValueError(
                f"{path}: decisions about label set {theirs}, the data set has {label_set}; name another file by"
                " --decisions"
            )

    def close(self) -> None:
        self.connection.close()

    def about(self, name: str) -> str:
        """`label_set`; `secret`, which pages are signed by; `token`, by which others than this machine come in."""
        return self.one("SELECT value FROM about WHERE name = ?", name)[0]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction; of all threads one at a time."""
        with self.lock:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.lock:
            return self.connection.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> tuple[Any, ...]:
        rows = self.all(query, *values)
        return rows[0] if rows else (None,)

    def of_product(self, product: str) -> Decision | None:
        """The decision about it that holds."""
        rows = self.all(
            f"SELECT {COLUMNS} FROM decision WHERE product = ? AND kind = 'decided' AND undone IS NULL", product
        )
        return Decision.of(rows[0]) if rows else None

    def decide(
        self,
        product: str,
        labels: Labels,
        said: Mapping[str, Any],
        reviewer: Reviewer,
        sampled: bool = False,
        replaces: int = 0,
    ) -> None:
        """Keep a decision.

        Args:
            replaces: number of the one that the reviewer has seen; 0 where there was none.
        Raises:
            Outdated: another one holds by now.
        """
        with self.writing():
            before = self.of_product(product)
            if before and before.number != replaces:
                raise Outdated(f"{before.reviewer} has decided this product since; what you chose was not saved")
            if before:
                self._undo(before.number)
            self._add(product, "decided", labels, said, reviewer, sampled)

    def skip(self, product: str, reviewer: Reviewer) -> None:
        """Show it to this reviewer no more."""
        with self.writing():
            self._add(product, "skipped", {}, {}, reviewer, False)

    def undo(self, reviewer: Reviewer) -> str | None:
        """Take back the last thing that this reviewer did; returns the product's id, or None where there is none."""
        with self.writing():
            rows = self.all(
                "SELECT number, product FROM decision WHERE session = ? AND undone IS NULL"
                " ORDER BY number DESC LIMIT 1",
                reviewer.session,
            )
            if not rows:
                return None
            number, product = rows[0]
            self._undo(number)
            self.lease(product, reviewer)
            return product

    def lease(self, product: str, reviewer: Reviewer) -> None:
        """Inside `writing`: show it to nobody else for a while."""
        self.connection.execute(
            "INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", (product, reviewer.session, time.time() + LEASE_S)
        )

    def _add(
        self,
        product: str,
        kind: str,
        labels: Labels,
        said: Mapping[str, Any],
        reviewer: Reviewer,
        sampled: bool,
    ) -> None:
        texts = (json.dumps(labels, ensure_ascii=False), json.dumps(said, ensure_ascii=False))
        self.connection.execute(
            "INSERT INTO decision (product, kind, sampled, labels, said, reviewer, session, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (product, kind, sampled, *texts, reviewer.name, reviewer.session, now()),
        )
        self.connection.execute("DELETE FROM lease WHERE product = ?", (product,))

    def _undo(self, number: int) -> None:
        self.undone += 1
        self.connection.execute("UPDATE decision SET undone = ? WHERE number = ?", (now(), number))


def place_of_decisions(data: Path) -> Path:
    """Where the decisions about a data set are kept, unless somebody says otherwise: beside it."""
    return data.with_name(f"{data.resolve().name}.decisions.sqlite")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
