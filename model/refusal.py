"""What is wrong with a product, as a type: a code that programs act on, and one line for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

Result = TypeVar("Result")


class Code(StrEnum):
    """Why a product is refused. Once served, a code keeps its name: callers act on it."""

    NO_MODALITY = "NO_MODALITY"
    IMG_EMPTY = "IMG_EMPTY"
    IMG_UNREADABLE = "IMG_UNREADABLE"
    IMG_UNDECODABLE = "IMG_UNDECODABLE"
    IMG_TRUNCATED = "IMG_TRUNCATED"
    IMG_FORMAT_NOT_ALLOWED = "IMG_FORMAT_NOT_ALLOWED"
    IMG_TOO_MANY_PIXELS = "IMG_TOO_MANY_PIXELS"
    IMG_TOO_MANY_BYTES = "IMG_TOO_MANY_BYTES"
    IMG_TOO_COSTLY = "IMG_TOO_COSTLY"
    TXT_INVALID_UTF8 = "TXT_INVALID_UTF8"
    TXT_TOO_LONG = "TXT_TOO_LONG"
    BAD_TENSOR = "BAD_TENSOR"
    NO_ID = "NO_ID"
    DUPLICATE_ID = "DUPLICATE_ID"
    ROW_UNUSABLE = "ROW_UNUSABLE"


class Refusal(ValueError):
    """A product that is refused, by its caller's fault; `str()` is `CODE: detail`, as callers read it.

    Args:
        code: why.
        detail: one line with the value, and what was expected.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def of_row(self, number: int, rows: int) -> Refusal:
        """The same, with the row of a request of several that it is about, counted from 0."""
        return self if rows == 1 else Refusal(self.code, f"row {number} of 0 to {rows - 1}: {self.detail}")


def each_row(function: Callable[..., Result], *columns: Sequence[Any]) -> list[Result]:
    """The function of each row of a request.

    Raises:
        Refusal: of a row, which it names where there are several.
    """
    results, rows = [], len(columns[0])
    for number, row in enumerate(zip(*columns, strict=True)):
        try:
            results.append(function(*row))
        except Refusal as refusal:
            raise refusal.of_row(number, rows) from refusal
    return results
