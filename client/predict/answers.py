"""The answers of a batch run on disk: parts while it goes on, one table, its rejects and a summary at the end.

Every part holds consecutive rows of the catalogue and appears in one step, so whenever the run is killed, the
rows of its parts are done and all others are not.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from client.predict.catalogue import CODE, Entry, Settings
from client.predict.tables import CsvTable, ParquetTable, RejectTable
from client.protocol import Answer, Outcome
from cma_clip.files import write_atomically

PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
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
    code = CODE.match(outcome.message)
    message = outcome.message[code.end() + 2 :] if code else outcome.message
    return {"row": entry.row, "id": entry.id, "code": code.group() if code else outcome.code, "message": message}


def beside(output: Path, word: str) -> Path:
    return output.with_name(f"{output.name}.{word}")


def finished(output: Path, settings: Settings) -> dict[str, Any] | None:
    """The summary of a run that ended with these settings; None if it is still to be done.

    Raises:
        ValueError: something else has the output's name.
    """
    shutil.rmtree(beside(output, "done"), ignore_errors=True)  # left by a kill at the very end
    if not output.exists() or beside(output, "progress").exists():
        return None
    file = beside(output, "json")
    summary = json.loads(file.read_text()) if file.is_file() else None
    if summary is None or summary["settings"] != settings:
        raise ValueError(f"{output}: is there already, from other settings; --overwrite replaces it")
    return summary


class Progress:
    """The directory `OUTPUT.progress` of a run that is not finished; a context manager that keeps others out.

    Args:
        output: the file that the run shall write.
        settings: what its rows depend on.
        overwrite: begin anew where other settings were begun, and replace a finished output.
    Attributes:
        done: rows of the catalogue that are in parts.
        state: settings, and what was learned on the way (label_set).
    Raises:
        ValueError: another process is at it, or it was begun with other settings.
    """

    def __init__(self, output: Path, settings: Settings, overwrite: bool = False) -> None:
        self.output, self.directory = output, beside(output, "progress")
        shutil.rmtree(beside(output, "done"), ignore_errors=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.lock = self._lock()
        try:
            self.state = self._read_state(settings, overwrite)
            self.parts = self._read_parts()
        except BaseException:
            self.lock.close()
            raise
        self.done = self.parts[-1][1] if self.parts else 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.lock.close()

    def _lock(self) -> TextIO:
        """Given back at the latest when the process ends, however it ends."""
        lock = (self.directory / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ValueError(f"{self.directory}: another process is writing {self.output}") from None
        return lock

    def _read_state(self, settings: Settings, overwrite: bool) -> dict[str, Any]:
        file = self.directory / "state.json"
        state = json.loads(file.read_text()) if file.is_file() else None
        if state and state["settings"] != settings:
            if not overwrite:
                other = ", ".join(name for name, value in settings.items() if state["settings"].get(name) != value)
                raise ValueError(f"{self.directory}: begun with other settings ({other}); --overwrite begins anew")
            for part in self.directory.glob("part-*"):
                part.unlink()
            state = None
        if state is None:
            state = {"settings": settings, "label_set": None}
            write_atomically(file, json.dumps(state))
        return state

    def _read_parts(self) -> list[tuple[int, int, Path]]:
        found = ((PART.fullmatch(path.name), path) for path in self.directory.iterdir())
        parts = sorted((int(name[1]), int(name[2]), path) for name, path in found if name)
        ends = [0, *(stop for _, stop, _ in parts)]
        for (start, _, path), end in zip(parts, ends, strict=False):
            if start != end:
                raise ValueError(f"{path}: the part before it is missing; delete {self.directory} to begin anew")
        return parts

    def pin(self, label_set: str | None) -> None:
        """Note the label set that all answers of the run must have."""
        self.state["label_set"] = label_set
        write_atomically(self.directory / "state.json", json.dumps(self.state))

    def add(self, records: list[dict[str, Any]]) -> None:
        """Write a part: the rows after those done so far."""
        stop = self.done + len(records)
        path = self.directory / f"part-{self.done:010d}-{stop:010d}.parquet"
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(records, schema=PART_SCHEMA), buffer)
        write_atomically(path, buffer.getvalue())
        self.parts.append((self.done, stop, path))
        self.done = stop

    def records(self) -> Iterator[dict[str, Any]]:
        for _, _, path in self.parts:
            yield from pq.read_table(path).to_pylist()

    def finish(self) -> dict[str, Any]:
        """Write output, rejects and summary, each in one step, and remove the parts.

        Returns:
            The summary: settings, rows, answered, rejected (code -> rows), label_set, model_versions.
        """
        summary = self._summary()
        self._write(beside(self.output, "rejects.csv"), RejectTable)
        self._write(self.output, CsvTable if self.output.suffix == ".csv" else ParquetTable)
        write_atomically(beside(self.output, "json"), json.dumps(summary, indent=2) + "\n")
        os.replace(self.directory, beside(self.output, "done"))
        shutil.rmtree(beside(self.output, "done"))
        return summary

    def _summary(self) -> dict[str, Any]:
        codes: Counter[str] = Counter()
        versions: set[str] = set()
        answered = 0
        for row in self.records():
            if row["code"] is None:
                answered += 1
                versions.add(row["model_version"])
            else:
                codes[row["code"]] += 1
        return {
            "settings": self.state["settings"],
            "rows": self.done,
            "answered": answered,
            "rejected": dict(codes.most_common()),
            "label_set": self.state["label_set"],
            "model_versions": sorted(versions),
        }

    def _write(self, path: Path, kind: type[CsvTable | ParquetTable | RejectTable]) -> None:
        partial = self.directory / path.name
        with partial.open("wb") as file:
            table = kind(file)
            for _, _, part in self.parts:
                table.add(pq.read_table(part).to_pylist())
            table.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
