"""The answers that a batch run leaves, as Parquet or CSV, part after part."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.products import neutral

LABEL_SEPARATOR = "|"  # as train.prepare catalog reads it


class CsvTable:
    """One line an answer; the labels of a multi-label task and their scores are joined by `|`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.rows: CsvRows | None = None

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        for answer in flat(records):
            self.rows = self.rows or CsvRows(self.file, tuple(answer))
            self.rows.add(_joined(cell) for cell in answer.values())

    def close(self) -> None:
        (self.rows or CsvRows(self.file, ("id",))).close()


class ParquetTable:
    """One row an answer; the labels of a multi-label task and their scores are lists."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.writer: pq.ParquetWriter | None = None

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        answers = list(flat(records))
        if answers:
            schema = _schema(answers[0])
            self.writer = self.writer or pq.ParquetWriter(self.file, schema)
            self.writer.write_table(pa.Table.from_pylist(answers, schema=schema))

    def close(self) -> None:
        (self.writer or pq.ParquetWriter(self.file, pa.schema([("id", pa.string())]))).close()


def flat(records: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The answered rows, with columns for each task: TASK_answer, TASK_score, TASK_accepted, TASK_text_share."""
    for record in records:
        if record["code"] is None:
            answer = {"id": record["id"]}
            for task, told in json.loads(record["prediction"]).items():
                single = "label" in told
                answer[f"{task}_answer"] = told["label"] if single else told["labels"]
                answer[f"{task}_score"] = told["score"] if single else told["scores"]
                answer[f"{task}_accepted"] = told["accepted"]
                answer[f"{task}_text_share"] = told["text_share"]
            yield answer | {"label_set": record["label_set"], "model_version": record["model_version"]}


class CsvRows:
    """A CSV file with its header; every cell is neutral."""

    def __init__(self, file: BinaryIO, header: Sequence[str]) -> None:
        self.text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        self.writer = csv.writer(self.text)
        self.writer.writerow(header)

    def add(self, cells: Iterable[object]) -> None:
        self.writer.writerow([neutral(cell) for cell in cells])

    def close(self) -> None:
        self.text.detach()


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
