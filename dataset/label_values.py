"""The value of a label in a cell, to the one text that means it."""

from __future__ import annotations

import ast
import json
import math
import re
import unicodedata
import warnings
from decimal import Decimal

import numpy as np

MISSING_WORDS = ("nan", "none", "null", "na", "n/a", "<na>", "nat", "#n/a")
MUCH_SHORTER = 4
WHOLE = re.compile(r"-?(0|[1-9][0-9]*)\.0+")
QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
ITEM = rf"(?:{QUOTED}|[-+]?[0-9][0-9.]*|None|null|nan)"
# Commas are a must: Python would read ['a' 'b'], as numpy prints it, as one text. Possessive: no cell takes long.
LIST = re.compile(rf"\[\s*+(?:{ITEM}\s*+(?:,\s*+{ITEM}\s*+)*+(?:,\s*+)?+)?+\]", re.DOTALL)
NOTHING = re.compile(rf"({QUOTED})|\b(?:null|nan)\b", re.DOTALL)


def label_text(value: object) -> str:
    """One text a label: a number is the same whatever its type (1, 1.0, Decimal("1.00"), "1.0"); text is NFC, stripped.

    Raises:
        ValueError: neither text nor a finite number; the message names the type.
    """
    if isinstance(value, bytes):
        value = _decoded(value)
    if isinstance(value, str):
        text = unicodedata.normalize("NFC", value).strip()
        text.encode()  # half of a surrogate pair is a UnicodeEncodeError, which is a ValueError
        return str(int(text.partition(".")[0])) if WHOLE.fullmatch(text) else text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float | np.floating | Decimal) and math.isfinite(value):
        return str(int(value)) if value == int(value) else _fraction(value)
    raise ValueError(f"{type(value).__name__} ({str(value)[:40]})")


def folded(label: str) -> str:
    """Equal for labels that differ in case, blanks, compatible or invisible characters only."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def listed(text: str) -> list[object] | None:
    """The items of a list written as text, by Python, pandas or JSON; None where it is no such text."""
    text = text.strip()
    if not LIST.fullmatch(text):
        return None
    for read in (json.loads, _python_list):
        try:
            return list(read(text))
        except (SyntaxError, ValueError):
            continue
    return None


def _python_list(text: str) -> list[object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a backslash that escapes nothing
        return ast.literal_eval(NOTHING.sub(lambda found: found[1] or "None", text))


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"bytes that are no UTF-8 ({value[:20]!r})") from None


def _fraction(value: float | np.floating | Decimal) -> str:
    """A number that is not whole: 0.1 of a float16, float32 or float64 column is the same text.

    A much shorter text in fewer bits (0.1 for 0.10000000149011612) is what was meant; 300.25 stays, which 16 bits hold
    as 300.2.
    """
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    text = repr(float(value))
    with np.errstate(over="ignore", under="ignore"):
        for kind in (np.float16, np.float32):
            short = np.format_float_positional(kind(value), trim="-")
            if float(kind(value)) == float(value) and len(short) + MUCH_SHORTER <= len(text):
                return short
    return text
