"""What `cma-clip fit` is given to learn from: a table, or a data set that was prepared before."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from dataset.corrections import state_of_corrections
from dataset.format import DatasetInfo
from dataset.labels import TaskColumn
from dataset.table import CsvSource, ParquetSource, Source, state_of
from model.tasks import TaskSet
from train.fit.columns import SOME_TITLES, Given, Layout, look

MIN_PRODUCTS = 5  # a label
TRAIN_SHARE = 0.8  # of a table's rows, unless it says so itself
STAND_IN_LABELS = 20  # of a task, as far as time goes
# Words for a missing value that are not likely to be labels; "None" may be one.
MISSING = ("nan", "null", "n/a", "<na>", "nat", "#n/a")


class Catalog(NamedTuple):
    """Attributes:
    data: the data set's directory, which `prepare` makes.
    prepare: what follows `python -m train.prepare`; nothing where the data set is there.
    products: rows of the table, or of the data set.
    train: those to train on, of a table about as many.
    tasks: those of a table with stand-ins for labels.
    columns: column -> what it is taken for.
    titles: some of them.
    """

    data: Path
    prepare: list[str]
    products: int
    train: int
    tasks: TaskSet
    columns: dict[str, str]
    titles: list[str]


def state_of_table(table: Path) -> Any:
    """Another one where the table, or the data set, has changed."""
    return DatasetInfo.read(table).hash if _is_prepared(table) else state_of(_source(table).files)


def state_of_further(further: Sequence[str]) -> Any:
    """Another one where the corrections have changed that options of train.prepare catalog name; None without."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--corrections", type=Path)
    path = parser.parse_known_args(further)[0].corrections
    return state_of_corrections(path) if path else None


def open_catalog(args: argparse.Namespace, data: Path, further: Sequence[str]) -> Catalog:
    """Look at the table.

    Args:
        args: options of train.fit.
        data: where the data set is to be made of a table.
        further: options of train.prepare catalog.
    Raises:
        ValueError: it cannot be read, or not be learned from.
    """
    if _is_prepared(args.table):
        if further:
            raise ValueError(
                f"{' '.join(further)}: {args.table} is prepared already; expected a table with these options"
            )
        info = DatasetInfo.read(args.table)
        rows = {name: split.rows for name, split in info.splits.items()}
        train = rows.get("train", 0)
        return Catalog(args.table, [], sum(rows.values()), train, info.tasks, {}, first_titles(args.table, info))
    source = _source(args.table)
    layout = look(source, args.image_root or source.root, Given(args.image, args.title, args.id, args.task))
    labels = [str(n) for n in range(STAND_IN_LABELS)]
    tasks = TaskSet(task.task(name=task.name, kind=task.kind, labels=labels) for task in layout.tasks)
    words = ["catalog", *_options(args, source, layout), "--output", str(data), *further]
    products = source.count()
    train = round(TRAIN_SHARE * products)
    return Catalog(data, words, products, train, tasks, layout.lines, layout.titles)


def first_titles(directory: Path, info: DatasetInfo) -> list[str]:
    """Of a prepared data set."""
    shard = next(shard for split in info.splits.values() for shard in split.shards)
    batches = pq.ParquetFile(directory / shard.file).iter_batches(SOME_TITLES, columns=["title"])
    return next(batches).column("title").to_pylist()


def _is_prepared(table: Path) -> bool:
    return (table / "dataset.json").is_file()


def _source(table: Path) -> Source:
    return ParquetSource(table) if table.is_dir() or table.suffix == ".parquet" else CsvSource(table)


def _options(args: argparse.Namespace, source: Source, layout: Layout) -> list[str]:
    """Of train.prepare catalog."""
    kind = "--csv" if isinstance(source, CsvSource) else "--parquet"
    words = [kind, str(args.table), "--image-column", layout.image, "--title-column", layout.title]
    some = {"--id-column": layout.id, "--split-column": layout.split, "--image-root": args.image_root}
    for option, value in some.items():
        words += [option, str(value)] if value else []
    for task in layout.tasks:
        words += ["--task", _task_option(task)]
    return [*words, "--merge-case", "--min-products", str(MIN_PRODUCTS), "--missing-values", *MISSING]


def _task_option(task: TaskColumn) -> str:
    parted = f":{task.separator}" if task.task.several_labels else ""
    return f"{task.name}={task.column}:{task.kind}{parted}"
