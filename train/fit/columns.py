"""Which column of a table holds what: image, title, id, split and labels, as its first rows tell."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dataset.cells import value_of
from dataset.image_cells import place_of, read_image
from dataset.label_values import folded
from dataset.labels import NAME, RESERVED, TaskColumn, parse_task, task_name
from dataset.splits import named_split
from dataset.table import Row, Source
from model.config import PreprocessConfig
from model.images import decode_pixels
from model.refusal import Refusal
from model.tasks import labelled_kinds
from train.fit.cells import Cells, column_names, read_cells

IMAGES_TRIED = 20
SOME_TITLES = 2000
TITLES = ("title", "name", "product title", "product name", "item name", "product display name", "display name")
IDS = ("id", "sku", "asin", "ean", "gtin", "upc", "uid", "product id", "item id", "article id", "handle")
SPLIT_NAMES = ("split", "fold", "subset", "partition")


class Given(NamedTuple):
    """What the user says of the columns; None, and no tasks: to be found out.

    Attributes:
        tasks: `[NAME=]COLUMN[:KIND[:SEPARATOR]]`.
    """

    image: str | None = None
    title: str | None = None
    id: str | None = None
    tasks: Sequence[str] = ()


@dataclass(frozen=True)
class Layout:
    """What each column is taken for.

    Attributes:
        titles: some of them.
        lines: column -> what it is taken for, for people, in the table's order.
    """

    image: str
    title: str
    id: str | None
    split: str | None
    tasks: list[TaskColumn]
    titles: list[str]
    lines: dict[str, str]


def look(source: Source, image_root: Path, given: Given) -> Layout:
    """Take each column for something.

    Raises:
        ValueError: a column that is given is not there or is not what it is given for, or none can be what is needed.
    """
    names = column_names(source)
    for option, name in (("--image", given.image), ("--title", given.title), ("--id", given.id)):
        if name is not None and name not in names:
            raise ValueError(f"{option} {name}: no such column; {source.files[0]} has {', '.join(map(repr, names))}")
    asked, cells = [_asked(option, names) for option in given.tasks], read_cells(source)
    tasks = _checked(asked, cells)
    taken = {given.image, given.title, given.id, *(task.column for task in tasks)}
    free = [name for name in names if name not in taken]
    images = _images(source, image_root, [given.image] if given.image else free)
    text = [cells[name] for name in free if name in cells and name not in images]
    id = given.id or next((one.name for one in text if _is_named(one, IDS) and one.is_unique), None)
    split = next((one.name for one in text if _is_named(one, SPLIT_NAMES) and all(map(named_split, one.values))), None)
    title = given.title or _title(source, [one for one in text if one.name not in (id, split)])
    said = {title: "the title"} | dict.fromkeys(images, "not used: more images") | {images[0]: "the image"}
    said |= {name: what for name, what in ((id, "the id"), (split, "the split")) if name}
    if not asked:
        tasks, why_not = _guessed([one for one in text if one.name not in said])
        said |= {name: f"not used: {why}" for name, why in why_not.items()}
    if not tasks:
        lines = "; ".join(f"{name}: {what}" for name, what in said.items())
        raise ValueError(f"{source.files[0]}: no column looks like labels ({lines}); --task COLUMN names one")
    said |= {task.column: _described(task, cells[task.column]) for task in tasks}
    titles = list(itertools.islice(cells[title].values, SOME_TITLES)) if title in cells else []
    return Layout(images[0], title, id, split, tasks, titles, {name: said.get(name, "not used") for name in names})


def _asked(option: str, names: Sequence[str]) -> TaskColumn:
    """A `--task`; the kind is empty where it says none.

    Raises:
        ValueError: the table has no such column.
    """
    name, _, rest = option.partition("=")
    for text, own in ((option, ""), (rest, name)):
        if text in names:
            return TaskColumn(own or _name_of(text), "", source=text)
        if text and re.search(rf":({'|'.join(labelled_kinds())})(:.*)?$", text, re.DOTALL):
            task = parse_task(f"{own or _name_of(text.partition(':')[0])}={text}")
            if task.column in names:
                return task
    raise ValueError(f"--task {option}: no such column; the table has {', '.join(map(repr, names))}")


def _name_of(column: str) -> str:
    """The column's name as a task may have it.

    Raises:
        ValueError: it has neither a letter nor a digit of ASCII.
    """
    words = "_".join(re.findall(r"[A-Za-z0-9]+", column))
    if not words:
        raise ValueError(f"column {column!r}: no name for a task; --task NAME={column} gives it one")
    if NAME.fullmatch(column) and column not in RESERVED:
        return column
    return task_name(words if words[0].isalpha() and words not in RESERVED else f"task_{words}")


def _images(source: Source, root: Path, columns: Sequence[str]) -> list[str]:
    """Those of the columns whose first cells hold an image that can be read.

    Raises:
        ValueError: there is none.
    """
    cells: dict[str, list[object]] = {name: [] for name in columns}
    for row in itertools.islice(source.rows(list(columns)), IMAGES_TRIED):
        for name, cell in row.cells.items() if isinstance(row, Row) else ():
            cells[name].append(value_of(cell))
    problems = {name: _image_problem(found, root) for name, found in cells.items()}
    good = [name for name, problem in problems.items() if problem is None]
    if not good:
        # Every word might be a file's name; what has an end to it, or a folder, is meant as one.
        meant = [name for name in columns if len(columns) == 1 or any(map(_looks_like_a_file, cells[name]))]
        said = "; ".join(f"{name}: {problems[name]}" for name in meant if problems[name])
        raise ValueError(
            f"{source.files[0]}: no column holds an image that can be read in its first {IMAGES_TRIED} rows"
            f"{f' ({said})' if said else ''}; --image names the column, --image-root the folder its paths start from"
        )
    return good


def _looks_like_a_file(cell: object) -> bool:
    return isinstance(cell, bytes | dict) or (isinstance(cell, str) and bool(re.search(r"\.[A-Za-z]{3,4}$|/", cell)))


def _image_problem(cells: Iterable[object], root: Path) -> str | None:
    """None where one of the cells is an image; else what is wrong with the first that is not empty."""
    first, preprocess = "", PreprocessConfig()
    for cell in cells:
        try:
            place = place_of(cell, root)
            if place is None:
                continue
            decode_pixels(read_image(place, preprocess.max_image_bytes), preprocess)
            return None
        except Refusal as refusal:
            first = first or refusal.detail
    return first


def _is_named(column: Cells, names: Sequence[str]) -> bool:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.name)
    return " ".join(re.split(r"[\W_]+", folded(words))) in names


def _title(source: Source, columns: Sequence[Cells]) -> str:
    """The column that is named so, else the one of the most words.

    Raises:
        ValueError: none has two words a cell.
    """
    named = [one.name for one in columns if _is_named(one, TITLES)]
    several = [one for one in columns if one.words_a_cell >= 2 and one.why_not_guessed() is None]
    if not named and not several:
        raise ValueError(f"{source.files[0]}: no column looks like titles; --title names one")
    return named[0] if named else max(several, key=lambda one: one.words_a_cell).name


def _checked(asked: Sequence[TaskColumn], cells: Mapping[str, Cells]) -> list[TaskColumn]:
    """The tasks that were asked for, each with a kind.

    Raises:
        ValueError: a column holds no labels.
    """
    tasks = []
    for task in asked:
        if task.column not in cells:
            raise ValueError(f"--task {task.column}: a column of bytes or structures holds no labels")
        try:
            kind, separator = cells[task.column].labels()
        except ValueError as error:
            raise ValueError(f"--task {task.column}: {error}; is it a column of labels?") from None
        tasks.append(task if task.kind else replace(task, kind=kind, separator=separator))
    return tasks


def _guessed(columns: Sequence[Cells]) -> tuple[list[TaskColumn], dict[str, str]]:
    """The columns that look like labels, and why the others do not."""
    tasks, why_not = [], {}
    for column in columns:
        try:
            if why := column.why_not_guessed():
                raise ValueError(why)
            kind, separator = column.labels()
            tasks.append(TaskColumn(_name_of(column.name), kind, separator, column.name))
        except ValueError as error:
            why_not[column.name] = str(error)
    return tasks, why_not


def _described(task: TaskColumn, cells: Cells) -> str:
    parted = f", parted by {task.separator}" if task.task.several_labels and not cells.lists else ""
    return f"labels of the task {task.name} ({task.kind}{parted})"
