"""The answers of a batch run on disk: parts while it goes on, one table, its rejects and a summary at the end.

A part appears in one step, so whenever the run is killed, the rows of its parts are done and all others are not.
"""

from __future__ import annotations

import json
import os
from bisect import insort
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.errors import InvalidProduct
from client.predict.catalogue import Entry
from client.predict.parts import Part, read_parts, write_part
from client.predict.tables import CsvTable, ParquetTable, flat
from client.protocol import Answer, Outcome
from cma_clip.files import to_disk, write_atomically
from cma_clip.settings import StrictModel, read_json
from dataset.format import Settings
from dataset.incidents import INTERNAL
from dataset.products import Reject, RejectFile
from dataset.resume import PARTS, beside, is_under_way


class Summary(StrictModel):
    """The content of OUTPUT.json. `rejected`: code -> rows."""

    settings: Settings
    rows: int
    answered: int
    rejected: dict[str, int]
    label_set: str | None
    model_versions: list[str]

    def __str__(self) -> str:
        return f"{self.answered} of {self.rows} rows answered, {self.rows - self.answered} rejected"


def record(entry: Entry, outcome: Outcome) -> dict[str, Any]:
    """A row of a part: an answer, or the code and message of a reject."""
    if isinstance(outcome, Answer):
        said = {"prediction": json.dumps(outcome.prediction), "label_set": outcome.label_set}
        answer = {"row": entry.row, "id": entry.id, **said, "model_version": outcome.model_version, "code": None}
        try:
            list(flat([answer]))
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"the server's answer is of another form ({type(error).__name__}: {error})"
            return {"row": entry.row, "id": entry.id, "code": INTERNAL, "message": problem}
        return answer
    code, message = outcome.code, outcome.message
    if isinstance(outcome, InvalidProduct) and outcome.refusal:
        code, message = outcome.refusal, message.removeprefix(f"{outcome.refusal}: ")
    return {"row": entry.row, "id": entry.id, "code": code, "message": message}


def finished(output: Path, settings: Settings) -> Summary | None:
    """The summary of a run that ended with these settings; None if it is still to be done.

    Raises:
        ValueError: something else has the output's name, or its summary is damaged.
    """
    if is_under_way(output) or not output.exists():
        return None
    file = beside(output, "json")
    try:
        summary = read_json(Summary, file) if file.exists() else None
    except ValueError as error:
        raise ValueError(f"{error}; --overwrite replaces it and {output.name}") from None
    if summary is None or summary.settings != settings:
        raise ValueError(f"{output}: is there already, from other settings; --overwrite replaces it")
    return summary


class Progress:
    """The parts of a run that is not finished.

    Args:
        output: the file that the run shall write.
        work: the directory of dataset.resume for it.
        settings: of the run; parts of other ones count for nothing.
    Attributes:
        done: how many rows of the catalogue are in parts.
        label_set: that all answers of the run must have; None until there is one.
    """

    def __init__(self, output: Path, work: Path, settings: Settings) -> None:
        self.output, self.work, self.settings = output, work, settings
        self.parts: list[Part] = []
        self.done = 0
        self.label_set: str | None = None
        for part in read_parts(work / PARTS, settings):
            self._take(part)

    def add(self, records: list[dict[str, Any]]) -> None:
        """Write rows, whose numbers rise, as parts: one, or more where rows between them are done already."""
        start = 0
        for end in range(1, len(records) + 1):
            if end == len(records) or records[end]["row"] != records[end - 1]["row"] + 1:
                self._take(write_part(self.work / PARTS, records[start:end], self.settings))
                start = end

    def rows_done(self) -> list[range]:
        """Numbers of the rows that are in parts, in order."""
        return [part.rows for part in self.parts]

    def _take(self, part: Part) -> None:
        insort(self.parts, part, key=lambda part: part.rows[0])
        self.done += len(part.rows)
        self.label_set = self.label_set or part.label_set()

    def records(self) -> Iterator[dict[str, Any]]:
        for part in self.parts:
            yield from part.read()

    def finish(self) -> Summary:
        """Write output, rejects and summary, each in one step."""
        assert sum(map(len, self.rows_done())) == self.done == max((rows[-1] for rows in self.rows_done()), default=0)
        summary = self._summary()
        self._write_rejects()
        self._write_answers()
        write_atomically(beside(self.output, "json"), summary.model_dump_json(indent=2) + "\n")
        return summary

    def _summary(self) -> Summary:
        codes: Counter[str] = Counter()
        versions: set[str] = set()
        for row in self.records():
            if row["code"] is None:
                versions.add(row["model_version"])
            else:
                codes[row["code"]] += 1
        return Summary(
            settings=self.settings,
            rows=self.done,
            answered=self.done - codes.total(),
            rejected=dict(codes.most_common()),
            label_set=self.label_set,
            model_versions=sorted(versions),
        )

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
        for part in self.parts:
            table.add(part.read())
        table.close()
        _publish(partial, self.output)


def _publish(partial: Path, path: Path) -> None:
    to_disk(partial)
    os.replace(partial, path)
