"""The one way by which a data set comes to be: parts that processes make, all or nothing."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from cma_clip.files import put_in_place, write_atomically
from dataset.format import DatasetInfo, Settings, Split
from dataset.parts import FinishedPart, Maker, Making, Part, finished_parts
from dataset.products import Product, Reject, RejectFile
from dataset.remarks import remarks
from dataset.resume import PARTS, work_on
from dataset.splits import SPLITS
from model.tasks import Task, TaskSet

FORMAT = 3  # of OUTPUT.partial: also of how rows are cut into parts
LABELS_SHOWN = 20


@dataclass(frozen=True)
class NewDataset:
    """What is to be written where.

    Attributes:
        source: where the products come from, for people.
        settings: all that the products depend on.
        max_rejects: largest share of rejected rows, 0 to 1, before the data set counts as wrong.
        next_stage: what the summary proposes to train, and with which recipe.
        found: tasks whose labels come from the rows: those of rejected rows only are left out.
        needed: splits that must have rows at the end.
        remarks: lines for the summary that are known before, and those that are when all rows are read.
        next_command: in place of training.
    """

    directory: Path
    tasks: Sequence[Task]
    source: str
    settings: Settings
    overwrite: bool = False
    max_rejects: float = 0.5
    next_stage: str = "warmup --config train/recipes/apa.yaml"
    found: frozenset[str] = frozenset()
    needed: tuple[str, ...] = ("train",)
    remarks: tuple[str, ...] = ()
    remarks_at_the_end: Callable[[], Sequence[str]] = tuple
    next_command: str | None = None


def write_dataset(
    new: NewDataset, parts: Iterable[Part], maker: Maker, workers: int, total: int | None = None
) -> DatasetInfo:
    """Write the data set, or what an earlier run with the same settings left to do of it.

    Args:
        total: items of all parts; None counts them, which wants a list of parts.
    Returns:
        What was written; a data set of the same settings that is already there is left alone.
    Raises:
        ValueError: the directory is taken, too many rows are rejected, or no training row is left. Nothing is kept.
        OSError: the disk is full or a process died. What is finished is kept for the next run.
    """
    if already_there(new):
        return DatasetInfo.read(new.directory)
    total = sum(len(part.items) for part in parts) if total is None else total
    stamp = {"format": FORMAT, "settings": new.settings}
    with work_on(new.directory, stamp, clear=True) as work:
        making = Making(maker, work, new.tasks)
        (work / "data").mkdir(exist_ok=True)
        rejects = RejectFile(work / "data" / "rejects.csv")
        try:
            # Ended here: no process may still write when the directory is taken away or left to the next run.
            with finished_parts(parts, making, workers) as made, closing(rejects):
                info = _collect(new, made, rejects, total)
        except ValueError:
            shutil.rmtree(work / PARTS)
            raise
        if not rejects.count:
            (work / "data" / "rejects.csv").unlink()
        write_atomically(work / "data" / "dataset.json", info.model_dump_json(indent=2) + "\n")
        put_in_place(work / "data", new.directory)
    print(summary(new, info, rejects.count))
    return info


def write_rows(new: NewDataset, rows: Iterable[Product | Reject], total: int | None = None) -> DatasetInfo:
    """Write products that this process makes, as one part; `total` rows, for the progress bar.

    Raises:
        ValueError, OSError: as write_dataset.
    """
    return write_dataset(new, [Part(0, [tqdm(rows, total=total, unit=" rows", disable=None)])], _Given(), 1, 0)


class _Given:
    """A maker whose items are products already."""

    def products(self, part: Part) -> Iterator[Product | Reject]:
        for rows in part.items:
            yield from rows


def already_there(new: NewDataset) -> bool:
    """Whether the directory holds the data set of these very settings, which is then said; else it must be free.

    Raises:
        ValueError: the directory is taken by something else, or by another data set that is not to be replaced.
    """
    directory = new.directory
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    if not (directory / "dataset.json").is_file():
        raise ValueError(f"{directory}: is there already and is not a data set (no dataset.json in it)")
    if new.overwrite:
        return False
    if DatasetInfo.read(directory).settings != new.settings:
        raise ValueError(f"{directory}: holds a data set of other settings; --overwrite replaces it")
    print(f"{directory}: already there, made with the same settings")
    return True


def _collect(new: NewDataset, made: Iterable[FinishedPart], rejects: RejectFile, total: int) -> DatasetInfo:
    """Add the parts up."""
    zeros = {task.name: dict.fromkeys(task.labels, 0) for task in new.tasks}
    splits = {
        name: Split(rows=0, shards=[], label_counts={task: dict(counts) for task, counts in zeros.items()})
        for name in SPLITS
    }
    with tqdm(total=total, unit=" rows", desc=new.directory.name, disable=None if total else True) as bar:
        for part in made:
            for name, split in part.splits.items():
                _add(splits[name], split)
            for reject in part.rejects:
                rejects.add(reject)
            if total:
                _refuse_many(new, rejects, total)
            bar.update(part.items)
    rows = sum(split.rows for split in splits.values()) + rejects.count
    _refuse_many(new, rejects, rows)
    lost = [name for name in new.needed if not splits[name].rows]
    if lost or rows == rejects.count:
        names = " and ".join(lost or ["any"])
        raise ValueError(
            f"no row is left for the {names} split ({rows} rows, {rejects.count} rejected){_example(rejects)}"
        )
    return _describe(new, {name: split for name, split in splits.items() if split.rows})


def _add(total: Split, part: Split) -> None:
    total.rows += part.rows
    total.shards.extend(part.shards)
    for task, counts in part.label_counts.items():
        for label, count in counts.items():
            total.label_counts[task][label] += count


def _refuse_many(new: NewDataset, rejects: RejectFile, rows: int) -> None:
    if rejects.count > new.max_rejects * rows:
        raise ValueError(
            f"{rejects.count} of {rows} rows rejected, --max-rejects allows {100 * new.max_rejects:g}%"
            f"{_example(rejects)}"
        )


def _example(rejects: RejectFile) -> str:
    return f"; {rejects.first}" if rejects.first else ""


def _describe(new: NewDataset, splits: dict[str, Split]) -> DatasetInfo:
    tasks = [_with_labels_of(task, splits) if task.name in new.found else task for task in new.tasks]
    for task in tasks:
        for split in splits.values():
            counts = split.label_counts[task.name]
            split.label_counts[task.name] = {label: counts[label] for label in task.labels}
    info = DatasetInfo(
        tasks=TaskSet(tasks),
        splits=splits,  # type: ignore[arg-type]  # pydantic checks the names
        source=new.source,
        settings=new.settings,
        hash="",
    )
    info.hash = info.hash_of_shards()
    return info


def _with_labels_of(task: Task, splits: dict[str, Split]) -> Task:
    """The task without labels that no product has.

    Raises:
        ValueError: too few are left.
    """
    labels = [label for label in task.labels if any(split.label_counts[task.name][label] for split in splits.values())]
    if len(labels) < task.least_labels:
        raise ValueError(
            f"task {task.name}: a {task.kind} task needs {task.least_labels} or more labels, the rows that are not"
            f" rejected hold {labels} of {task.labels}"
        )
    return task.model_copy(update={"labels": labels})


def summary(new: NewDataset, info: DatasetInfo, rejects: int) -> str:
    """What was written, for people, and the command that comes next."""
    directory = new.directory
    size = sum((directory / shard.file).stat().st_size for s in info.splits.values() for shard in s.shards)
    rows = ", ".join(f"{name} {split.rows:,}" for name, split in info.splits.items())
    lines = [f"{directory}: {rows} products, {size / 1e6:,.1f} MB, {rejects:,} rejected"]
    for task in info.tasks:
        counts: Counter[str] = Counter()
        for split in info.splits.values():
            counts.update(split.label_counts[task.name])
        common = [f"{label} {count:,}" for label, count in counts.most_common(LABELS_SHOWN)]
        more = f", and {len(counts) - LABELS_SHOWN} more" if len(counts) > LABELS_SHOWN else ""
        asked = f", {task.only_if}" if task.only_if else ""
        lines.append(f"  {task.name} ({task.kind}, {len(task.labels)} labels{asked}): {', '.join(common)}{more}")
    if rejects:
        lines.append(f"  rejected rows and why: {directory / 'rejects.csv'}")
    known = {task.name: frozenset(task.labels) for task in info.tasks}
    dropped = {task.name: [label for label in task.labels if label not in known[task.name]] for task in new.tasks}
    found = remarks(info, dropped) if new.found else []
    lines += [f"  note: {line}" for line in (*new.remarks, *new.remarks_at_the_end(), *found)]
    training = f"deepspeed train/main.py --stage {new.next_stage} --data {directory} --output runs/NAME"
    lines.append(f"next: {new.next_command or training}")
    return "\n".join(lines)
