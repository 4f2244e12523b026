"""A row of a source as it comes out: a product for a shard, or a line of rejects.csv."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from model.refusal import Refusal

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@dataclass(frozen=True)
class Product:
    """One row of a shard. `labels`: task -> label, list of labels, or None where it has none."""

    id: str
    image: bytes
    title: str
    labels: dict[str, str | list[str] | None]
    split: str


@dataclass(frozen=True)
class Reject:
    """A row of the source that was refused.

    Attributes:
        row: counts from 1.
        id: as far as it could be read.
        code: a model.refusal.Code, or what a server calls its own failure.
        detail: one line for people. Bytes that are no UTF-8 stand as backslashes in both texts.
    """

    row: int
    id: str
    code: str
    detail: str

    def __post_init__(self) -> None:
        for name in ("id", "detail"):
            text = getattr(self, name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, name, text)

    @classmethod
    def of(cls, row: int, id: str, refusal: Refusal) -> Reject:
        return cls(row, id, str(refusal.code), refusal.detail)

    def __str__(self) -> str:
        return f"row {self.row}: {self.code}: {self.detail}"


class RejectFile:
    """A CSV file of rejects: row, id, code, message; `count` of them so far, and the first."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self.first: Reject | None = None
        self.file = path.open("w", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file)
        self.rows.writerow(("row", "id", "code", "message"))

    def add(self, reject: Reject) -> None:
        self.first = self.first or reject
        self.rows.writerow((reject.row, neutral(reject.id), reject.code, neutral(reject.detail)))
        self.count += 1

    def close(self) -> None:
        self.file.close()


def neutral(cell: object) -> object:
    """Text that a spreadsheet would take for a formula, with an apostrophe before it; all else as it is."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def plain(cell: str) -> str:
    """Text as it was before `neutral`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell
