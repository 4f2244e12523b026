"""The parts of a batch run: consecutive rows each, in a file whose name says which, and by a checksum that it is whole.

The checksum is over the run's settings, the rows' numbers and the content, so a part that was cut, changed, exchanged
with another or left by another run counts for nothing: its rows are asked for again, and no others.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cma_clip.files import write_atomically
from dataset.format import Settings

log = logging.getLogger(__name__)

NAME = re.compile(r"(\d{12})-(\d{12})-([0-9a-f]{32})\.parquet")
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("prediction", pa.string()),
        ("label_set", pa.string()),
        ("model_version", pa.string()),
        ("code", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Part:
    """A part that is whole. `rows`: their numbers in the catalogue, from 1."""

    rows: range
    path: Path

    def read(self) -> list[dict[str, Any]]:
        return pq.read_table(self.path).to_pylist()

    def label_set(self) -> str | None:
        """Of its answers; None where all rows are rejects."""
        label_sets = pq.read_table(self.path, columns=["label_set"])["label_set"]
        return next(iter(label_sets.drop_null().to_pylist()), None)


def write_part(directory: Path, records: Sequence[dict[str, Any]], settings: Settings) -> Part:
    """Write rows with consecutive numbers in one step."""
    rows = range(records[0]["row"], records[-1]["row"] + 1)
    assert [record["row"] for record in records] == list(rows)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(records), schema=SCHEMA), buffer)
    content = buffer.getvalue()
    path = directory / f"{rows[0]:012d}-{rows[-1]:012d}-{_checksum(rows, content, settings)}.parquet"
    write_atomically(path, content)
    return Part(rows, path)


def read_parts(directory: Path, settings: Settings) -> Iterator[Part]:
    """The parts that are whole and of these settings, in the order of their rows, each row in one of them only.

    Of every other file one line is said, with its name.
    """
    done = 0
    for path in sorted(directory.glob("*.parquet")):
        rows = _rows_of(path, settings)
        if rows is None:
            log.warning("%s: damaged, or of another run; its rows are asked for again", path)
        elif rows[0] <= done:
            log.warning("%s: holds rows of the part before it; left out", path)
        else:
            done = rows[-1]
            yield Part(rows, path)


def _rows_of(path: Path, settings: Settings) -> range | None:
    name = NAME.fullmatch(path.name)
    if name is None or not path.is_file():
        return None
    rows = range(int(name[1]), int(name[2]) + 1)
    return rows if rows and name[3] == _checksum(rows, path.read_bytes(), settings) else None


def _checksum(rows: range, content: bytes, settings: Settings) -> str:
    stamp = json.dumps([settings, rows[0], rows[-1]], sort_keys=True)
    return hashlib.sha256(stamp.encode() + b"\0" + content).hexdigest()[:32]
