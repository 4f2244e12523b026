"""Your own catalogue: a CSV or Parquet table of titles, images and labels."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from dataset.format import Settings
from dataset.labels import make_tasks, parse_task, read_label_file
from dataset.parts import cut_rows
from dataset.rows import Columns, ImageReader, Reading, unread_products
from dataset.splits import SplitShares
from dataset.table import CsvSource, ParquetSource, Source, state_of
from dataset.writer import NewDataset, already_there, write_dataset
from model.tasks import KINDS
from train.prepare.options import add_common_arguments, check_ranges

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
        help=f"KIND {' or '.join(KINDS)}, SEPARATOR of labels in a text cell (|); repeatable",
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
    parser.add_argument("--image-root", type=Path, help="folder of the images; default: the table's")
    add_common_arguments(parser, max_rejects=0.5, seed="of the split")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: an option does not fit the table, too many rows are bad, the output is taken.
    """
    check_ranges(arguments, validation=(0, 1), test=(0, 1))
    if arguments.validation + arguments.test >= 1:
        raise ValueError(f"--validation {arguments.validation} and --test {arguments.test}: expected below 1 in all")
    source = CsvSource(arguments.csv) if arguments.csv else ParquetSource(arguments.parquet)
    reading = _reading(arguments, source)
    reading.check_columns(source)
    new = NewDataset(
        directory=arguments.output,
        tasks=[],
        source=f"catalogue {arguments.csv or arguments.parquet}",
        settings=_settings(arguments, source),
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
    )
    if already_there(new):
        return
    known = dict(read_label_file(option, reading.tasks) for option in arguments.labels)
    tasks, total = make_tasks(source, reading.tasks, known)
    parts = cut_rows(unread_products(source, reading, tasks), total)
    write_dataset(replace(new, tasks=tasks), parts, ImageReader(reading.preprocess), arguments.workers, total)


def _reading(arguments: argparse.Namespace, source: Source) -> Reading:
    tasks = [parse_task(option) for option in arguments.task]
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"--task names a column twice: {', '.join(names)}")
    return Reading(
        columns=Columns(arguments.image_column, arguments.title_column, arguments.id_column, arguments.split_column),
        image_root=arguments.image_root or source.root,
        tasks=tasks,
        shares=SplitShares(arguments.validation, arguments.test, arguments.seed),
    )


def _settings(arguments: argparse.Namespace, source: Source) -> Settings:
    """All that the products depend on; a table or label file that changed since counts as another one."""
    files = [*source.files, *(Path(option.partition("=")[2]) for option in arguments.labels)]
    described: Settings = {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in NOT_SETTINGS
    }
    return described | state_of(path for path in files if path.is_file())
