"""The answers that a batch run leaves, as Parquet or CSV, part after part."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.products import neutral

LABEL_SEPARATOR = "|"  # as train.prepare catalog reads it


class CsvTable:
    """One line an answer, every cell neutral; the labels of a multi-label task and their scores are joined by `|`."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.file)
        self.is_empty = True

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        for answer in flat(records):
            if self.is_empty:
                self.rows.writerow(answer)
                self.is_empty = False
            self.rows.writerow([neutral(_joined(cell)) for cell in answer.values()])

    def close(self) -> None:
        if self.is_empty:
            self.rows.writerow(("id",))
        self.file.close()


class ParquetTable:
    """One row an answer; the labels of a multi-label task and their scores are lists."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        answers = list(flat(records))
        if answers:
            schema = _schema(answers[0])
            self.writer = self.writer or pq.ParquetWriter(self.path, schema)
            self.writer.write_table(pa.Table.from_pylist(answers, schema=schema))

    def close(self) -> None:
        (self.writer or pq.ParquetWriter(self.path, pa.schema([("id", pa.string())]))).close()


def flat(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The answered rows, with columns for each task: TASK_answer, TASK_score, TASK_accepted, TASK_refused (why not),
    TASK_text_share; where a promise holds for single labels of several, TASK_accepted_labels as well.
    """
    for record in records:
        if record["code"] is None:
            answer = {"id": record["id"]}
            for task, told in json.loads(record["prediction"]).items():
                single = "label" in told
                answer[f"{task}_answer"] = told["label"] if single else told["labels"]
                answer[f"{task}_score"] = told["score"] if single else told["scores"]
                answer[f"{task}_accepted"] = told["accepted"]
                answer[f"{task}_refused"] = told.get("refused", "")
                if "accepted_labels" in told:
                    answer[f"{task}_accepted_labels"] = told["accepted_labels"]
                answer[f"{task}_text_share"] = told["text_share"]
            yield answer | {"label_set": record["label_set"], "model_version": record["model_version"]}


def _joined(cell: object) -> object:
    return LABEL_SEPARATOR.join(map(str, cell)) if isinstance(cell, list) else cell


def _schema(answer: dict[str, Any]) -> pa.Schema:
    """The columns of an answer; an empty list's type follows from its name."""
    return pa.schema([(name, _type(name, cell)) for name, cell in answer.items()])


def _type(name: str, cell: object) -> pa.DataType:
    if isinstance(cell, bool):
        return pa.bool_()
    number = name.endswith(("_score", "_text_share"))
    plain = pa.float64() if number else pa.string()
    return pa.list_(plain) if isinstance(cell, list) else plain
