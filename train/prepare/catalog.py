"""Your own catalogue: a CSV or Parquet table of titles, images and labels."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from dataset.conditions import parse_conditions, said_of_unasked, with_conditions, without_unasked
from dataset.corrections import read_corrections, said_of_corrections, state_of_corrections
from dataset.duplicates import Duplicates, Links, find_duplicates
from dataset.format import Settings
from dataset.label_values import MISSING_WORDS, folded
from dataset.labels import LabelRules, TaskColumn, make_tasks, parse_task, read_label_file
from dataset.parts import cut_rows
from dataset.remarks import some_of
from dataset.rows import Columns, ImageReader, Reading, add_reading_options, unread_products
from dataset.splits import SPLITS, SplitShares, refuse_lost
from dataset.survey import Survey, survey, twins
from dataset.table import CsvSource, ParquetSource, Source, state_of
from dataset.writer import NewDataset, already_there, write_dataset
from model.config import BundleConfig
from model.tasks import TaskSet, labelled_kinds
from train.prepare.options import MOST, add_common_arguments, check_ranges

NOT_SETTINGS = ("output", "overwrite", "workers", "corrections", "only_if")  # the last two only where there are some


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m train.prepare catalog`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help="comma-separated UTF-8 file with a header")
    source.add_argument("--parquet", type=Path, help="Parquet file, or a directory of them")
    parser.add_argument("--image-column", required=True, help="paths; in Parquet also encoded bytes")
    parser.add_argument("--title-column", required=True)
    parser.add_argument("--id-column", help="without it row numbers serve as ids")
    parser.add_argument("--split-column", help="its cells are train, validation (valid, val, dev) or test")
    parser.add_argument("--group-column", help="products of one value are drawn into one split")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="[NAME=]COLUMN:KIND[:SEPARATOR]",
        help=f"KIND {' or '.join(labelled_kinds())}, SEPARATOR of labels in a text cell (|); repeatable",
    )
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="TASK=FILE",
        help="one label a line; default: all found in rows that are not rejected",
    )
    parser.add_argument(
        "--only-if",
        nargs="+",
        action="append",
        default=[],
        metavar=("TASK", "OTHER LABEL"),
        help="TASK is asked of products with one of these labels of the task OTHER; repeatable",
    )
    parser.add_argument(
        "--labels-of",
        type=Path,
        metavar="BUNDLE",
        help="tasks and labels of a trained bundle: a table to score it on, test split unless --split-column says else",
    )
    parser.add_argument(
        "--missing-values",
        nargs="*",
        metavar="VALUE",
        help=f"label cells that mean no label, in any case; without VALUE {' '.join(MISSING_WORDS)}",
    )
    parser.add_argument(
        "--merge-case", action="store_true", help="labels that differ in case or blanks only are one, as most write it"
    )
    parser.add_argument(
        "--min-products",
        type=int,
        default=1,
        metavar="N",
        help="labels of fewer rows count as none, but for those that are given (%(default)s)",
    )
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="FILE",
        help="people's decisions, .csv or Parquet: columns id, TASK and TASK_decided; they replace the table's labels",
    )
    parser.add_argument("--validation", type=float, default=0.1, help="share of products (%(default)s)")
    parser.add_argument("--test", type=float, default=0.1, help="share of products (%(default)s)")
    parser.add_argument("--image-root", type=Path, help="folder of the images; default: the table's")
    add_reading_options(parser)
    add_common_arguments(parser, max_rejects=0.5, seed="of the split")


def run(arguments: argparse.Namespace) -> None:
    """Make the data set.

    Raises:
        ValueError: an option does not fit the table, too many rows are bad, the output is taken.
    """
    _check_options(arguments)
    source = CsvSource(arguments.csv) if arguments.csv else ParquetSource(arguments.parquet)
    bundle = BundleConfig.read(arguments.labels_of / "config.json").tasks.labelled if arguments.labels_of else None
    reading = _reading(arguments, source, bundle)
    reading.check_columns(source)
    if arguments.corrections:
        reading = replace(reading, decisions=read_corrections(arguments.corrections, reading))
    conditions = {task.name: task.only_if for task in bundle or () if task.only_if}
    conditions |= parse_conditions(arguments.only_if, [task.name for task in reading.tasks])
    found = survey(source, reading)
    new = NewDataset(
        directory=arguments.output,
        tasks=[],
        source=f"catalogue {arguments.csv or arguments.parquet}",
        settings=_settings(arguments, source) | {"images": found.images},
        overwrite=arguments.overwrite,
        max_rejects=arguments.max_rejects,
    )
    if already_there(new):
        return
    given = dict(read_label_file(option, reading.tasks) for option in arguments.labels)
    given |= {task.name: task.labels for task in bundle or ()}
    reading = _without_rare(reading, found, given, arguments.min_products)
    tasks = with_conditions(_tasks(reading, found, given), conditions, reading.rules)
    needed = _needed(arguments, found)
    duplicates = find_duplicates(twins(source, reading, found.repeated), Links())
    reading = replace(reading, links=duplicates.links)
    dropped = Counter[str]()
    new = replace(
        new,
        tasks=tasks,
        found=frozenset(task.name for task in tasks) - given.keys(),
        needed=needed,
        remarks=(
            *_said_of_corrections(arguments, reading, found),
            *_said_of_rare(reading, arguments.min_products),
            *_said_of_copies(reading, duplicates),
        ),
        remarks_at_the_end=partial(said_of_unasked, tasks, dropped),
        next_command=f"cma-clip score {arguments.labels_of} --data {arguments.output}" if bundle else None,
    )
    rows = without_unasked(unread_products(source, reading, tasks), tasks, dropped)
    parts = cut_rows(rows, found.rows)
    write_dataset(new, parts, ImageReader(reading.preprocess), arguments.workers, found.rows)


def _check_options(arguments: argparse.Namespace) -> None:
    check_ranges(arguments, validation=(0, 1), test=(0, 1), min_products=(1, MOST))
    if arguments.validation + arguments.test >= 1:
        raise ValueError(f"--validation {arguments.validation} and --test {arguments.test}: expected below 1 in all")
    if arguments.split_column and arguments.group_column:
        raise ValueError("--split-column gives the splits and --group-column draws them: expected one of the two")
    if arguments.labels_of and arguments.labels:
        raise ValueError("--labels-of and --labels: expected one of the two")
    if not arguments.task and not arguments.labels_of:
        raise ValueError("--task: expected at least one COLUMN:KIND, or --labels-of BUNDLE")


def _reading(arguments: argparse.Namespace, source: Source, bundle: TaskSet | None) -> Reading:
    tasks = [parse_task(option) for option in arguments.task]
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"--task names a column twice: {', '.join(names)}")
    names_of = (arguments.image_column, arguments.title_column, arguments.id_column)
    missing = arguments.missing_values
    return Reading(
        columns=Columns(*names_of, arguments.split_column, arguments.group_column),
        image_root=arguments.image_root or source.root,
        tasks=_as_bundle(tasks, bundle, arguments.labels_of) if bundle else tasks,
        rules=LabelRules(
            frozenset(MISSING_WORDS if missing == [] else map(folded, missing or ())), arguments.merge_case
        ),
        split="test" if bundle and not arguments.split_column else None,
        shares=SplitShares(arguments.validation, arguments.test, arguments.seed),
        keep_literal_nan=arguments.keep_literal_nan,
    )


def _as_bundle(tasks: list[TaskColumn], bundle: TaskSet, path: Path) -> list[TaskColumn]:
    """The bundle's tasks in its order, with the separators that --task gives."""
    given = {task.name: task for task in tasks}
    for name, task in given.items():
        expected = {own.name: own.kind for own in bundle}
        if expected.get(name) != task.kind:
            has = ", ".join(f"{own.name}:{own.kind}" for own in bundle)
            raise ValueError(f"--task {name}:{task.kind}: no task of {path}, which has {has}")
    return [given.get(own.name, TaskColumn(own.name, own.kind)) for own in bundle]


def _without_rare(reading: Reading, found: Survey, given: Mapping[str, list[str]], least: int) -> Reading:
    """The same, but labels of fewer rows count as none; those of a file or bundle stay."""
    rare = {
        task.name: reading.rules.rare(found.labels.get(task.name, Counter()), least)
        for task in reading.tasks
        if task.name not in given
    }
    return replace(reading, tasks=[replace(task, left_out=rare.get(task.name, frozenset())) for task in reading.tasks])


def _tasks(reading: Reading, found: Survey, given: Mapping[str, list[str]]) -> TaskSet:
    columns = [task for task in reading.tasks if task.name not in given]
    labels = {task.name: reading.rules.chosen(_counts(found, task)) for task in columns}
    try:
        return make_tasks(reading.tasks, labels | dict(given), reading.rules)
    except ValueError as error:
        empty = [f"no cell of {task.column} has a label" for task in columns if not found.labels.get(task.name)]
        empty += [f"{len(task.left_out)} labels of {task.name} are too rare" for task in columns if task.left_out]
        reasons = [found.unusable[task.name] for task in columns if task.name in found.unusable] or empty
        raise ValueError("; ".join([str(error), *reasons])) from None


def _counts(found: Survey, task: TaskColumn) -> Counter[str]:
    """Label as a cell has it -> rows, of those that are not left out."""
    counts = found.labels.get(task.name, Counter())
    return Counter({label: rows for label, rows in counts.items() if label not in task.left_out})


def _needed(arguments: argparse.Namespace, found: Survey) -> tuple[str, ...]:
    """The splits that must have rows at the end."""
    needed = () if arguments.labels_of else ("train", "validation")
    if arguments.split_column is None:
        return needed[:1]
    named = refuse_lost(arguments.split_column, found.splits, needed)
    return tuple(name for name in SPLITS if name in named)


def _said_of_corrections(arguments: argparse.Namespace, reading: Reading, found: Survey) -> list[str]:
    return [said_of_corrections(reading.decisions, found.decided)] if arguments.corrections else []


def _said_of_rare(reading: Reading, least: int) -> list[str]:
    return [
        f"{task.name}: labels of fewer than {least} rows count as none: {some_of(map(repr, sorted(task.left_out)))}"
        for task in reading.tasks
        if task.left_out
    ]


def _said_of_copies(reading: Reading, duplicates: Duplicates) -> tuple[str, ...]:
    if not duplicates.products:
        return ()
    said = f"{duplicates.products:,} products have the image and title of an earlier one under another id"
    if reading.columns.split is None:
        return (f"{said}; each is in the split of the first",) if reading.split is None else (said,)
    return (f"{said}, {duplicates.apart:,} of them in another split of --split-column {reading.columns.split}",)


def _settings(arguments: argparse.Namespace, source: Source) -> Settings:
    """All that the products depend on; a table, or any other file, that changed since counts as another one."""
    files = [*source.files, *(Path(option.partition("=")[2]) for option in arguments.labels)]
    if arguments.labels_of:
        files.append(arguments.labels_of / "config.json")
    described: Settings = {
        name: str(value.resolve()) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in NOT_SETTINGS
    }
    if arguments.only_if:
        described["only_if"] = [shlex.join(words) for words in arguments.only_if]
    if arguments.corrections:
        described["corrections"] = str(arguments.corrections.resolve())
        described |= {
            f"corrections_{name}": state for name, state in state_of_corrections(arguments.corrections).items()
        }
    return described | state_of(path for path in files if path.is_file())
