"""A data set again without the labels that are probably wrong, or with the likely ones in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from dataset.format import DatasetInfo, Settings
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import Task, TaskSet
from train.audit.doubts import Doubt
from train.data import ProductDataset

How = Literal["drop", "relabel"]


def write_cleaned(
    output: Path, data: Path, splits: Mapping[str, ProductDataset], doubts: Mapping[str, Sequence[Doubt]], how: How
) -> None:
    """Write the data set with other labels in its train split; validation and test stay what they are judged by.

    Args:
        splits: all of the data set by name, in the order in which products are counted.
        doubts: by task.
        how: `drop` leaves a product without a label of the task, or without the one in doubt of several.
    Raises:
        ValueError: `output` is taken.
    """
    info = DatasetInfo.read(data)
    settings: Settings = {
        "made_of": info.hash,
        "audit": how,
        **{f"doubts_{name}": len(of) for name, of in doubts.items()},
    }
    new = NewDataset(output, info.tasks, f"{info.source}; probably wrong labels: {how}", settings)
    write_rows(new, _products(splits, info.tasks, doubts, how), sum(map(len, splits.values())))


def check_place(output: Path, data: Path) -> None:
    """Before any work: the place is free, or holds this data set audited before.

    Raises:
        ValueError: something else is there.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    there = DatasetInfo.read(output) if (output / "dataset.json").is_file() else None
    if there is None or there.settings.get("made_of") != DatasetInfo.read(data).hash:
        raise ValueError(f"{output}: holds something else than {data} after an audit; name another directory")


def _products(
    splits: Mapping[str, ProductDataset], tasks: TaskSet, doubts: Mapping[str, Sequence[Doubt]], how: How
) -> Iterator[Product]:
    by_product: dict[int, list[tuple[Task, Doubt]]] = {}
    for task in tasks:
        for doubt in doubts[task.name]:
            by_product.setdefault(doubt.product, []).append((task, doubt))
    place = 0
    for name, split in splits.items():
        for index in range(len(split)):
            row = split.product(index)
            labels = {task.name: row[task.name] for task in tasks}
            for task, doubt in by_product.get(place, ()) if name == "train" else ():
                labels[task.name] = cleaned(task, labels[task.name], doubt, how)
            yield Product(row["id"], row["image"] or b"", row["title"] or "", tasks.asked_only(labels), name)
            place += 1


def cleaned(task: Task, stored: str | list[str] | None, doubt: Doubt, how: How) -> str | list[str] | None:
    """The value on disk after a doubt."""
    if not task.several_labels:
        return doubt.likely if how == "relabel" else None
    assert isinstance(stored, list), stored
    if doubt.given is not None:
        return [label for label in stored if label != doubt.given]
    return [*stored, doubt.likely] if how == "relabel" and doubt.likely is not None else stored
