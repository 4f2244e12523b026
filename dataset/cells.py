"""What a table's cell means, whatever type it came in."""

from __future__ import annotations

import math
from decimal import Decimal

from dataset.label_values import label_text
from model.refusal import Code, Refusal

# How data frames and databases spell an empty cell once it was turned into text.
LITERAL_NAN = frozenset({"nan", "NaN", "None", "null", "NULL", "<NA>"})
SPELLED = LITERAL_NAN | {word.encode() for word in LITERAL_NAN}
LONGEST_SHOWN = 200


def value_of(cell: object, keep_literal_nan: bool = False) -> object:
    """The cell; None where it is NaN, as pandas writes what is not there, or spells it."""
    if isinstance(cell, float) and cell != cell:
        return None
    if not keep_literal_nan and isinstance(cell, str | bytes) and cell.strip() in SPELLED:
        return None
    return cell


def text_of(cell: object, column: str) -> str:
    """A cell as text: bytes are decoded, a whole number has no fraction (pandas makes 1001.0 of 1001 beside a hole).

    Raises:
        Refusal: TXT_INVALID_UTF8, or ROW_UNUSABLE where it is a list or another thing of parts.
    """
    if cell is None:
        return ""
    if isinstance(cell, list | dict | tuple):
        raise Refusal(Code.ROW_UNUSABLE, f"{column} is {type(cell).__name__}, expected text or a number")
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError as error:
            raise Refusal(Code.TXT_INVALID_UTF8, f"{column} is not UTF-8 at position {error.start}") from None
    if isinstance(cell, float | Decimal) and math.isfinite(cell):
        return label_text(cell)
    return str(cell)


def id_for_people(cell: object) -> str:
    """What a reject is called whose row cannot be read: the id as far as it can be told."""
    try:
        return text_of(value_of(cell), "id").strip()[:LONGEST_SHOWN]
    except Refusal:
        return repr(cell)[:LONGEST_SHOWN]
