"""Whether a data set has what a stage learns from and is judged by, before its first update."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.format import DatasetInfo
from model.networks import StageName
from model.tasks import Task

SplitName = Literal["train", "validation"]

LEAST_PAIRS = 2  # one title and its image have no counterexample: the loss is 0 whatever the towers do


def check_learnable(stage: StageName, data: Path, info: DatasetInfo) -> None:
    """Refuse a data set that a stage cannot learn from.

    Raises:
        ValueError: naming the split and the task: no label to train on, no label at all to validate by, or, in
            contrastive, no titles with images. A split that is missing is named where it is opened.
    """
    if stage == "contrastive":
        for split in get_args(SplitName):
            _check_pairs(data, info, split)
        return
    for task in info.tasks:
        if "train" in info.splits and not any(info.splits["train"].label_counts[task.name].values()):
            raise ValueError(
                f"{data}: no product of the train split has a label of the task {task.name}, which would be served"
                " untrained; label some, or prepare the data without it"
            )
    if "validation" in info.splits and not any(_is_labelled(data, info, "validation", task) for task in info.tasks):
        names = ", ".join(task.name for task in info.tasks)
        raise ValueError(
            f"{data}: no product of the validation split has a label of any task ({names}), so that no weights could be"
            " chosen; label some"
        )


def _is_labelled(data: Path, info: DatasetInfo, split: SplitName, task: Task) -> bool:
    """Whether some product is known to have labels of the task, or none of them."""
    if any(info.splits[split].label_counts[task.name].values()):
        return True
    return any(len(table[task.name]) > table[task.name].null_count for table in _tables(data, info, split, task.name))


def _check_pairs(data: Path, info: DatasetInfo, split: SplitName) -> None:
    if split not in info.splits:
        return
    pairs = 0
    for table in _tables(data, info, split, "title", "image"):
        rows = zip(table["title"].cast(pa.binary()), table["image"], strict=True)
        pairs += sum(bool(title.as_py()) and bool(image.as_py()) for title, image in rows)
        if pairs >= LEAST_PAIRS:
            return
    raise ValueError(
        f"{data}: {pairs} products of the {split} split have a title and an image; the stage contrastive learns from"
        f" such pairs and needs {LEAST_PAIRS} or more; begin with --stage warmup, or add titles and images"
    )


def _tables(data: Path, info: DatasetInfo, split: SplitName, *columns: str) -> Iterator[pa.Table]:
    """These columns, row group by row group, as far as they are asked for."""
    for shard in info.splits[split].shards:
        try:
            file = pq.ParquetFile(data / shard.file)
            for group in range(file.metadata.num_row_groups):
                yield file.read_row_group(group, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{data / shard.file}: cannot be read ({error}); prepare the data again") from None
