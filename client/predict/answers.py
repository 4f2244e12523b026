"""The answers of a batch run on disk: parts while it goes on, one table, its rejects and a summary at the end.

Every part holds consecutive rows of the catalogue and appears in one step, so whenever the run is killed, the
rows of its parts are done and all others are not.
"""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from client.errors import InvalidProduct
from client.predict.catalogue import Entry
from client.predict.tables import CsvTable, ParquetTable
from client.protocol import Answer, Outcome
from cma_clip.files import to_disk, write_atomically
from dataset.format import Settings
from dataset.products import Reject, RejectFile
from dataset.resume import PARTS, beside, is_under_way

PART_SCHEMA = pa.schema(
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


def record(entry: Entry, outcome: Outcome) -> dict[str, Any]:
    """A row of a part: an answer, or the code and message of a reject."""
    if isinstance(outcome, Answer):
        said = {"prediction": json.dumps(outcome.prediction), "label_set": outcome.label_set}
        return {"row": entry.row, "id": entry.id, **said, "model_version": outcome.model_version}
    code, message = outcome.code, outcome.message
    if isinstance(outcome, InvalidProduct) and outcome.refusal:
        code, message = outcome.refusal, message.removeprefix(f"{outcome.refusal}: ")
    return {"row": entry.row, "id": entry.id, "code": code, "message": message}


def finished(output: Path, settings: Settings) -> dict[str, Any] | None:
    """The summary of a run that ended with these settings; None if it is still to be done.

    Raises:
        ValueError: something else has the output's name.
    """
    if is_under_way(output) or not output.exists():
        return None
    file = beside(output, "json")
    summary = json.loads(file.read_text()) if file.is_file() else None
    if summary is None or summary["settings"] != settings:
        raise ValueError(f"{output}: is there already, from other settings; --overwrite replaces it")
    return summary


class Progress:
    """The parts of a run that is not finished.

    Args:
        output: the file that the run shall write.
        work: the directory of dataset.resume for it.
    Attributes:
        done: rows of the catalogue that are in parts.
        label_set: that all answers of the run must have; None until there is one.
    Raises:
        ValueError: a part is missing.
    """

    def __init__(self, output: Path, work: Path) -> None:
        self.output, self.work = output, work
        self.parts: list[Path] = []
        self.done = 0
        self.label_set: str | None = None
        for path in sorted((work / PARTS).glob("*.parquet")):
            if int(path.stem) != self.done:
                raise ValueError(f"{path}: the part before it is missing; delete {work} to begin anew")
            self._take(path)

    def add(self, records: list[dict[str, Any]]) -> None:
        """Write a part: the rows after those done so far."""
        path = self.work / PARTS / f"{self.done:012d}.parquet"
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records, schema=PART_SCHEMA), buffer)
        write_atomically(path, buffer.getvalue())
        self._take(path)

    def _take(self, path: Path) -> None:
        label_sets = pq.read_table(path, columns=["label_set"])["label_set"]
        self.parts.append(path)
        self.done += len(label_sets)
        self.label_set = self.label_set or next(iter(label_sets.drop_null().to_pylist()), None)

    def records(self) -> Iterator[dict[str, Any]]:
        for path in self.parts:
            yield from pq.read_table(path).to_pylist()

    def finish(self, settings: Settings) -> dict[str, Any]:
        """Write output, rejects and summary, each in one step.

        Returns:
            The summary: settings, rows, answered, rejected (code -> rows), label_set, model_versions.
        """
        summary = self._summary(settings)
        self._write_rejects()
        self._write_answers()
        write_atomically(beside(self.output, "json"), json.dumps(summary, indent=2) + "\n")
        return summary

    def _summary(self, settings: Settings) -> dict[str, Any]:
        codes: Counter[str] = Counter()
        versions: set[str] = set()
        for row in self.records():
            if row["code"] is None:
                versions.add(row["model_version"])
            else:
                codes[row["code"]] += 1
        return {
            "settings": settings,
            "rows": self.done,
            "answered": self.done - codes.total(),
            "rejected": dict(codes.most_common()),
            "label_set": self.label_set,
            "model_versions": sorted(versions),
        }

    def _write_rejects(self) -> None:
        partial = self.work / "rejects.csv"
        rejects = RejectFile(partial)
        for row in self.records():
            if row["code"] is not None:
                rejects.add(Reject(row["row"], row["id"], row["code"], row["message"]))
        rejects.close()
        _publish(partial, beside(self.output, "rejects.csv"))

    def _write_answers(self) -> None:
        partial = self.work / "answers"
        table = CsvTable(partial) if self.output.suffix == ".csv" else ParquetTable(partial)
        for path in self.parts:
            table.add(pq.read_table(path).to_pylist())
        table.close()
        _publish(partial, self.output)


def _publish(partial: Path, path: Path) -> None:
    to_disk(partial)
    os.replace(partial, path)
