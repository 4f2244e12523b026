"""A fault that nobody foresaw costs its own row, and is named so that the log can be searched for it."""

from __future__ import annotations

import logging

from dataset.cells import LONGEST_SHOWN
from dataset.products import Reject
from dataset.seen_ids import hash_of

log = logging.getLogger(__name__)

INTERNAL = "INTERNAL"  # as a server calls its own faults


def incident(row: int, id: str, error: Exception) -> Reject:
    """The reject of a row over which our own code broke; the traceback goes to the log.

    Raises:
        MemoryError: the machine's fault, not the row's.
    """
    if isinstance(error, MemoryError):
        raise error
    name = f"{hash_of(f'{row} {error!r}'.encode(errors='backslashreplace').decode()):016x}"[:12]
    log.error("incident %s, row %d", name, row, exc_info=error)
    what = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_SHOWN]
    return Reject(row, id, INTERNAL, f"incident {name}, see the log ({what})")
