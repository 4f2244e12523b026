"""Your own catalogue: a CSV or Parquet table of titles, pictures and labels."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from dataset.labels import make_tasks, parse_task, read_label_file
from dataset.parallel import available_cores
from dataset.rows import Columns, Reading, SplitShares, products
from dataset.table import CsvSource, ParquetSource, Source
from dataset.writer import Plan, Settings, already_there, write_dataset
from model.config import PreprocessConfig

NOT_SETTINGS = ("output", "overwrite", "workers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare catalog`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help="comma-separated UTF-8 file with a header")
    source.add_argument("--parquet", type=Path, help="Parquet file, or a directory of them")
    parser.add_argument("--image-column", required=True, help="paths; in Parquet also encoded bytes")
    parser.add_argument("--title-column", required=True)
    parser.add_argument("--id-column", help="without it row numbers serve as ids")
    parser.add_argument("--split-column", help="its cells are train, validation or test")
    parser.add_argument(
        "--task",
        action="append",
        required=True,
        metavar="COLUMN:KIND[:SEPARATOR]",
        help="KIND single_label or multi_label, SEPARATOR of labels in a text cell (|); repeatable",
    )
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="one label a line; default: all found",
    )
    parser.add_argument("--validation", type=float, default=0.1, help="share of products (%(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="share of products (%(default)s)")
    parser.add_argument("--image-root", type=Path, help="folder of the pictures; default: the table's")
    parser.add_argument("--max-rejects", type=float, default=0.5, help="share of bad rows allowed (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--workers", type=int, default=available_cores(), help="threads")
    parser.add_argument("--output", type=Path, required=True, help="directory of the new data set")
    parser.add_argument("--overwrite", action="store_true", help="replace an old data set")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: an option does not fit the table, too many rows are bad, the output is taken.
    """
    _check_numbers(arguments)
    source = CsvSource(arguments.csv) if arguments.csv else ParquetSource(arguments.parquet)
    reading = _reading(arguments, source)
    _check_columns(reading, source)
    plan = Plan(
        directory=arguments.output,
        tasks=[],
        source=f"catalogue {arguments.csv or arguments.parquet}",
        settings=_settings(arguments, source),
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
    )
    if already_there(plan):
        return
    known = dict(read_label_file(option, reading.tasks) for option in arguments.labels)
    tasks, total = make_tasks(source, reading.tasks, known)
    rows = products(source, reading, tasks, arguments.workers)
    write_dataset(replace(plan, tasks=tasks, total=total), rows)


def _reading(arguments: argparse.Namespace, source: Source) -> Reading:
    return Reading(
        columns=Columns(arguments.image_column, arguments.title_column, arguments.id_column, arguments.split_column),
        tasks=[parse_task(option) for option in arguments.task],
        shares=SplitShares(arguments.validation, arguments.test, arguments.seed),
        image_root=arguments.image_root or source.root,
        preprocess=PreprocessConfig(),
    )


def _check_numbers(arguments: argparse.Namespace) -> None:
    validation, test = arguments.validation, arguments.test
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(f"--validation {validation} and --test {test}: expected shares of 0 or more, below 1 in all")
    if not 0 <= arguments.max_rejects <= 1:
        raise ValueError(f"--max-rejects {arguments.max_rejects}: expected a share from 0 to 1")
    if arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: expected 1 or more")


def _check_columns(reading: Reading, source: Source) -> None:
    names = [task.name for task in reading.tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"--task names a column twice: {', '.join(names)}")
    there = source.columns()
    missing = [name for name in reading.used_columns() if name not in there]
    if missing:
        raise ValueError(f"{source.files[0]}: no column {', '.join(missing)}; it has {', '.join(there)}")


def _settings(arguments: argparse.Namespace, source: Source) -> Settings:
    """All that the products depend on; a table or label file that changed since counts as another one."""
    files = [*source.files, *(Path(option.partition("=")[2]) for option in arguments.labels)]
    states = [path.stat() for path in files if path.is_file()]
    described: Settings = {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in NOT_SETTINGS
    }
    return described | {
        "bytes": sum(state.st_size for state in states),
        "modified_ns": max(state.st_mtime_ns for state in states),
    }
