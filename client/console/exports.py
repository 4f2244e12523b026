"""Decisions as files: what `prepare catalog` takes, and what Label Studio and FiftyOne import.

Every table has the labels of the data set with the decisions laid over them, and for each task TASK_decided.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from client.console.catalog import COLUMNS, Catalog, Product
from client.console.decisions import Decision, Labels
from client.console.state import EDGES, as_jpeg
from dataset.as_table import cell_of, kind_of
from model.tasks import Task, TaskSet

BATCH = 256


class Decided(NamedTuple):
    """A product with its decision. `labels`: of all tasks, those of the data set where nothing was decided."""

    product: Product
    decision: Decision
    labels: Labels


class Format(NamedTuple):
    """How decisions are written. `suffix`: of one file, or empty for a folder."""

    suffix: str
    says: str
    write: Callable[[Path, Catalog], None]


def write_as(format: Format, path: Path, catalog: Catalog) -> Path:
    """Write all decisions; returns the file, whose suffix is the format's, or the folder."""
    path = path.with_name(path.name + format.suffix)
    if not format.suffix:
        path.mkdir()
    format.write(path, catalog)
    return path


def decided(catalog: Catalog) -> Iterator[Decided]:
    """In the order of the data set, a batch at a time, so that a console goes on while they are written."""
    after = -1
    columns = ", ".join(f"p.{name}" for name in COLUMNS.split(", "))
    of_decision = ", ".join(f"d.{name}" for name in Decision._fields)
    query = f"""SELECT {of_decision}, {columns} FROM product p JOIN decision d ON d.product = p.id
        AND d.kind = 'decided' AND d.undone IS NULL WHERE p.place > ? ORDER BY p.place LIMIT {BATCH}"""
    while rows := catalog.decisions.all(query, after):
        for row in rows:
            decision, product = Decision.of(row[:7]), Product.of(row[7:])
            yield Decided(product, decision, product.given | decision.labels)
        after = product.place


def write_parquet(path: Path, catalog: Catalog) -> None:
    """One file with the images in it: `prepare catalog --parquet`, or `--corrections`."""
    schema = schema_of(catalog.tasks)
    with pq.ParquetWriter(path, schema) as file:
        rows: list[dict[str, Any]] = []
        for one in decided(catalog):
            stored = {task.name: _stored(task, one.labels[task.name]) for task in catalog.tasks}
            rows.append(_facts(one) | {"image": catalog.image(one.product)} | stored | _marks(one, catalog.tasks))
            if len(rows) == BATCH:
                file.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        file.write_table(pa.Table.from_pylist(rows, schema))


def write_csv(folder: Path, catalog: Catalog) -> None:
    """decisions.csv beside image files: `prepare catalog --csv`, or `--corrections`."""
    (folder / "images").mkdir()
    with (folder / "decisions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(schema_of(catalog.tasks).names)
        for one in decided(catalog):
            cells = {task.name: cell_of(task, _stored(task, one.labels[task.name])) for task in catalog.tasks}
            marks = {name: str(mark).lower() for name, mark in _marks(one, catalog.tasks).items()}
            row = _facts(one) | {"image": _image_file(folder, "images", one, catalog)} | cells | marks
            writer.writerow(row.values())


def write_label_studio(path: Path, catalog: Catalog) -> None:
    """A list of tasks, images in them, each with one annotation and the model's answer as a prediction."""
    separator = "[\n"
    with path.open("w", encoding="utf-8") as file:
        for one in decided(catalog):
            file.write(separator + json.dumps(_label_studio_task(one, catalog), ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n" if separator == ",\n" else "[]\n")


def _label_studio_task(one: Decided, catalog: Catalog) -> dict[str, Any]:
    encoded = catalog.image(one.product)
    small = as_jpeg(encoded, EDGES["large"]) if encoded else None
    image = f"data:image/jpeg;base64,{base64.b64encode(small).decode()}" if small else ""
    said = [_choices(name, told["labels"]) for name, told in one.decision.said.items()]
    return {
        "data": {"image": image, "title": one.product.title, "id": one.product.id},
        "annotations": [
            {
                "created_at": one.decision.at,
                "result": [_choices(name, labels) for name, labels in one.decision.labels.items() if labels],
            }
        ],
        "predictions": [{"result": said}] if said else [],
    }


def _choices(task: str, labels: list[str]) -> dict[str, Any]:
    return {"from_name": task, "to_name": "image", "type": "choices", "value": {"choices": labels}}


def write_fiftyone(folder: Path, catalog: Catalog) -> None:
    """data/ and for each task labels-TASK.json, as fiftyone.types.FiftyOneImageClassificationDataset reads them."""
    (folder / "data").mkdir()
    labels: dict[str, dict[str, Any]] = {task.name: {} for task in catalog.tasks}
    for one in decided(catalog):
        if not _image_file(folder, "data", one, catalog):
            continue
        for task in catalog.tasks:
            named = [{"label": label} for label in one.labels[task.name] or []]
            if named:
                labels[task.name][str(one.product.place)] = named if task.several_labels else named[0]
    for name, of_task in labels.items():
        content = {"classes": None, "labels": of_task}
        (folder / f"labels-{name}.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def schema_of(tasks: TaskSet) -> pa.Schema:
    """`_reviewer` and `_decided_at` are no task's names.

    Raises:
        ValueError: a task has the name of another one's TASK_decided.
    """
    text, several = pa.string(), pa.list_(pa.string())
    fixed = [(name, text) for name in ("id", "split", "title", "_reviewer", "_decided_at")]
    labels = [(task.name, several if task.several_labels else text) for task in tasks]
    schema = pa.schema([*fixed, ("image", pa.binary()), *labels, *((f"{t.name}_decided", pa.bool_()) for t in tasks)])
    if twice := sorted(name for name in schema.names if schema.names.count(name) > 1):
        raise ValueError(f"task {twice[0]}: what is decided of another task has that name; rename it")
    return schema


def _facts(one: Decided) -> dict[str, Any]:
    product, decision = one.product, one.decision
    facts = {"id": product.id, "split": product.split, "title": product.title}
    return facts | {"_reviewer": decision.reviewer, "_decided_at": decision.at}


def _marks(one: Decided, tasks: TaskSet) -> dict[str, bool]:
    return {f"{task.name}_decided": task.name in one.decision.labels for task in tasks}


def _stored(task: Task, labels: list[str] | None) -> str | list[str] | None:
    return None if labels is None else task.stored(labels)


def _image_file(folder: Path, inside: str, one: Decided, catalog: Catalog) -> str:
    """Write the image as it is stored, under a name of our own; its path in the folder, or "" where there is none."""
    encoded = catalog.image(one.product)
    if not encoded:
        return ""
    name = f"{inside}/{one.product.place}.{kind_of(encoded)}"
    (folder / name).write_bytes(encoded)
    return name


FORMATS = {
    "parquet": Format(".parquet", "one file with images, as prepare catalog takes it", write_parquet),
    "csv": Format("", "a table beside image files, as prepare catalog takes it", write_csv),
    "label-studio": Format(
        ".json", "tasks for Label Studio, with annotations and what the model said", write_label_studio
    ),
    "fiftyone": Format("", "FiftyOneImageClassificationDataset, a file of labels for each task", write_fiftyone),
}
