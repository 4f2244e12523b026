"""What a model said of the products, as `cma-clip predict` left it or a server says now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.review_order import UNKNOWN, Said
from model.tasks import MISMATCH, TaskSet

# Task -> labels, scores, accepted, refused, text_share; `mismatch` too where the bundle tells it.
Answer = dict[str, dict[str, Any]]


def check_answers(path: Path, tasks: TaskSet) -> None:
    """Refuse a table that is not of these tasks.

    Raises:
        ValueError: it is missing, no Parquet, or lacks a task.
    """
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise ValueError(
            f"--answers {path}: no Parquet file ({error}); cma-clip predict --output FILE.parquet writes one"
        ) from None
    missing = [name for task in tasks for name in columns_of(task.name) if name not in names]
    if "id" not in names or missing:
        raise ValueError(f"--answers {path}: no column {(missing or ['id'])[0]}; of another bundle than the data set?")


def columns_of(task: str) -> list[str]:
    """Those that every table has; `refused` and `accepted_labels` are not in tables of before."""
    return [f"{task}_{what}" for what in ("answer", "score", "accepted", "text_share")]


def read_answers(path: Path, tasks: TaskSet) -> Iterator[tuple[str, Answer]]:
    """Each id with what was said of it.

    Raises:
        ValueError: a label that the data set does not have.
    """
    names = [task.name for task in tasks]
    with pq.ParquetFile(path) as file:
        if f"{MISMATCH}_answer" in file.schema_arrow.names:
            names.append(MISMATCH)
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                answer = {name: _of_task(name, row) for name in names}
                for task in tasks:
                    if unknown := set(answer[task.name]["labels"]) - set(task.labels):
                        label = sorted(unknown)[0]
                        raise ValueError(f"--answers {path}: {task.name} of {row['id']!r} is {label!r}, no label of it")
                yield row["id"], answer


def _of_task(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    labels, scores, is_accepted = (row[f"{name}_{what}"] for what in ("answer", "score", "accepted"))
    said = {
        "labels": _listed(labels),
        "scores": _listed(scores),
        "accepted": is_accepted,
        "refused": row.get(f"{name}_refused") or ("" if is_accepted else "score"),
        "text_share": row[f"{name}_text_share"],
    }
    accepted = row.get(f"{name}_accepted_labels")
    return said if accepted is None else said | {"accepted_labels": accepted}


def _listed(cell: Any) -> list[Any]:
    """Of a task with one label a product the cell is that label, or null where the task does not apply."""
    return cell if isinstance(cell, list) else [] if cell is None else [cell]


def of_prediction(prediction: Mapping[str, Mapping[str, Any]]) -> Answer:
    """The same of what a server says."""
    kept = ("labels", "scores", "accepted", "accepted_labels", "text_share")
    return {
        name: {key: told[key] for key in kept if key in told}
        | {"refused": told.get("refused", "")}
        | ({"labels": [told["label"]], "scores": [told["score"]]} if told.get("label") is not None else {})
        for name, told in prediction.items()
    }


def said_of(answer: Answer) -> dict[str, Said]:
    """What the order of a review asks of it."""
    return {
        name: Said(told["labels"], min(told["scores"], default=UNKNOWN), "" if told["accepted"] else told["refused"])
        for name, told in answer.items()
        if name != MISMATCH
    }


def mismatch_of(answer: Answer) -> float:
    """The score of a mismatch that counts; 0 where none is told."""
    told = answer.get(MISMATCH)
    return max(told["scores"], default=1.0) if told and told["accepted"] else 0.0


def accepted_labels(told: Mapping[str, Any]) -> list[str]:
    """The labels of an answer that count as accepted."""
    return list(told.get("accepted_labels", told["labels"])) if told["accepted"] else []


def dump(answer: Answer) -> str:
    return json.dumps(answer, ensure_ascii=False)
