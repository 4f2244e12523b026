"""The data set on disk: Parquet shards `split=NAME/*.parquet` beside `dataset.json`.

Columns of a shard: `id` string, `image` binary (encoded bytes, empty if absent), `title` string
(empty if absent), then one column a task: string, or list of string where a product may have several labels,
null where it is not known; an empty list is none of the labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pyarrow as pa

from cma_clip.settings import StrictModel, read_json
from model.tasks import Task, TaskSet

Settings = dict[str, str | int | float | bool | None | list[str]]


class Shard(StrictModel):
    """One Parquet file: path relative to the data set, its rows, its size in bytes (None in data sets of before), and
    sha256.
    """

    file: str
    rows: int
    bytes: int | None = None
    sha256: str


class Split(StrictModel):
    """One split. `label_counts`: task -> label -> products; labels that never occur count 0."""

    rows: int
    shards: list[Shard]
    label_counts: dict[str, dict[str, int]]


class DatasetInfo(StrictModel):
    """The content of `dataset.json`.

    Attributes:
        tasks: without thresholds.
        splits: those of train, validation and test that hold rows.
        source: where the products came from, for people.
        settings: the arguments that made it; preparing again with the same ones does nothing.
        hash: sha256 over the shards' sha256, in the order of splits and shards.
    """

    format: Literal[1] = 1
    tasks: TaskSet
    splits: dict[Literal["train", "validation", "test"], Split]
    source: str
    settings: Settings = {}
    hash: str

    @classmethod
    def read(cls, directory: Path) -> DatasetInfo:
        """Read `directory/dataset.json`.

        Raises:
            ValueError: it is missing, damaged or does not fit; the message names file and field.
        """
        path = directory / "dataset.json"
        if not path.exists():
            raise ValueError(f"{path}: no such file; make a data set with python -m train.prepare")
        info = read_json(cls, path)
        if info.hash != info.hash_of_shards():
            raise ValueError(
                f"{path}: damaged, its shards are not those of its hash; put back a copy, or prepare again"
            )
        return info

    def hash_of_shards(self) -> str:
        digests = "".join(shard.sha256 for split in self.splits.values() for shard in split.shards)
        return hashlib.sha256(digests.encode()).hexdigest()


def shard_schema(tasks: Sequence[Task]) -> pa.Schema:
    """The columns of a shard for these tasks."""
    fixed = [("id", pa.string()), ("image", pa.binary()), ("title", pa.string())]
    return pa.schema(
        fixed + [(task.name, pa.list_(pa.string()) if task.several_labels else pa.string()) for task in tasks]
    )
