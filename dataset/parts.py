"""A large data set in parts: every part is a shard that one process makes, and a stopped run goes on.

Finished parts wait in OUTPUT.partial; OUTPUT appears in one step when all of them are there. A part depends on nothing
but its items, so a run that was stopped ends with the same bytes as one that was not.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from cma_clip.files import to_disk, write_atomically
from cma_clip.settings import StrictModel, read_json
from dataset.format import SPLITS, DatasetInfo, Shard, Split
from dataset.parallel import ordered_map
from dataset.writer import (
    SHARD_ROWS,
    Plan,
    Product,
    Reject,
    RejectList,
    SplitWriter,
    already_there,
    describe,
    summary,
)
from model.tasks import Task

log = logging.getLogger(__name__)

PART_ROWS = 1024
FORMAT = 1


class Maker(Protocol):
    """Makes products. It is sent to every process once and opens its files there by itself."""

    def products(self, split: str, items: Sequence[Any]) -> Iterator[Product | Reject]:
        """The products of some items of a split, in order; an item that has no place in the data set gives none."""


@dataclass(frozen=True)
class Part:
    """What one shard is made from; `number` counts the parts of a split from 0."""

    split: str
    number: int
    items: Sequence[Any]


class FinishedPart(StrictModel):
    """A part that lies on the disk; `shard` is None where no item gave a product."""

    shard: Shard | None
    label_counts: dict[str, dict[str, int]]
    rejects: list[Reject]


def cut(items: Mapping[str, Sequence[Any]]) -> list[Part]:
    """Split name -> items, cut into parts of PART_ROWS items."""
    assert PART_ROWS <= SHARD_ROWS
    return [
        Part(split, number, items[split][start : start + PART_ROWS])
        for split in SPLITS
        for number, start in enumerate(range(0, len(items.get(split, ())), PART_ROWS))
    ]


def write_in_parts(plan: Plan, parts: Sequence[Part], maker: Maker, workers: int) -> DatasetInfo:
    """Write the data set, or what an earlier run with the same settings left to do of it.

    Returns:
        What was written; a data set of the same settings that is already there is left alone.
    Raises:
        ValueError: the directory is taken, too many rows are rejected, or no training row is left. Nothing is kept.
        OSError: the disk is full or a process died. What is finished is kept for the next run.
    """
    if already_there(plan):
        return DatasetInfo.read(plan.directory)
    with partial_directory(plan) as directory:
        left = [part for part in parts if not _is_finished(directory, part)]
        rows = _rows(parts)
        rejects = RejectList(directory / "rejects.csv")
        splits: dict[str, Split] = {}
        made = _made(left, (maker, directory, plan.tasks), workers)
        bar = tqdm(total=rows, initial=rows - _rows(left), unit=" rows", desc=plan.directory.name, disable=None)
        # closing: no process may still write when the directory is taken away or left to the next run.
        with bar, closing(made):
            for part, finished in _in_order(parts, left, _counted(made, left, bar), directory):
                _add(splits, part.split, finished)
                for reject in finished.rejects:
                    rejects.add(reject)
                rejects.refuse_above(plan.max_rejects, rows)
        rejects.close()
        info = describe(plan, {name: split for name, split in splits.items() if split.rows})
        rejects.check(info, plan.max_rejects)
        write_atomically(directory / "dataset.json", info.model_dump_json(indent=2) + "\n")
    print(summary(plan, info, rejects.count))
    return info


@contextmanager
def partial_directory(plan: Plan) -> Iterator[Path]:
    """OUTPUT.partial with the finished parts of the same settings; it takes OUTPUT's place when the block ends well.

    Raises:
        ValueError: another run is at work in it.
    """
    final = plan.directory
    partial, old = (final.with_name(f"{final.name}.{word}") for word in ("partial", "old"))
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        _keep_or_clear(partial, plan)
        try:
            yield partial
        except ValueError:
            shutil.rmtree(partial)
            raise
        except BaseException:
            log.warning("what is finished stays in %s; the same command goes on from there", partial)
            raise
        shutil.rmtree(partial / "parts")
        (partial / "settings.json").unlink()
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            os.replace(final, old)
        os.replace(partial, final)
        shutil.rmtree(old, ignore_errors=True)


def make_part(part: Part, maker: Maker, directory: Path, tasks: Sequence[Task]) -> FinishedPart:
    """Write one part's shard, then the note that it is finished."""
    writer = SplitWriter(directory, part.split, tasks, first=part.number)
    rejects = []
    for row in maker.products(part.split, part.items):
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            writer.add(row)
    split = writer.close()
    shard = split.shards[0] if split.shards else None
    if shard is not None:
        to_disk(directory / shard.file)
    finished = FinishedPart(shard=shard, label_counts=split.label_counts, rejects=rejects)
    write_atomically(_note(directory, part), finished.model_dump_json())
    return finished


def _in_order(
    parts: Sequence[Part], left: Sequence[Part], made: Iterator[FinishedPart], directory: Path
) -> Iterator[tuple[Part, FinishedPart]]:
    """Every part: made now if it was left to do, else as an earlier run noted it."""
    to_do = {(part.split, part.number) for part in left}
    for part in parts:
        is_new = (part.split, part.number) in to_do
        yield part, next(made) if is_new else read_json(FinishedPart, _note(directory, part))


def _made(parts: Sequence[Part], work: tuple[Maker, Path, Sequence[Task]], workers: int) -> Generator[FinishedPart]:
    if workers == 1 or len(parts) < 2:
        yield from (make_part(part, *work) for part in parts)
        return
    # Spawned, not forked: a fork copies the locks of Arrow's threads and HDF5's open files as they stand.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(parts)), context, initializer=_start_worker, initargs=(work,))
    try:
        yield from ordered_map(pool, _make_in_worker, parts, pending=2 * workers)
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process died, perhaps for lack of memory; run the command again, with fewer --workers"
        ) from None


_work: tuple[Maker, Path, Sequence[Task]]


def _start_worker(work: tuple[Maker, Path, Sequence[Task]]) -> None:
    """Keep the work in the process; Ctrl-C is the parent's to answer."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = work


def _end_with_parent() -> None:
    """A worker must not write on beside the next run when its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_in_worker(part: Part) -> FinishedPart:
    return make_part(part, *_work)


def _counted(made: Iterator[FinishedPart], parts: Sequence[Part], bar: tqdm) -> Iterator[FinishedPart]:
    """What comes from `made`, and the progress bar moves with it."""
    for part, finished in zip(parts, made, strict=True):
        bar.update(len(part.items))
        yield finished


def _rows(parts: Sequence[Part]) -> int:
    return sum(len(part.items) for part in parts)


def _add(splits: dict[str, Split], name: str, part: FinishedPart) -> None:
    split = splits.setdefault(name, Split(rows=0, shards=[], label_counts={}))
    if part.shard is not None:
        split.rows += part.shard.rows
        split.shards.append(part.shard)
    for task, counts in part.label_counts.items():
        total = split.label_counts.setdefault(task, dict.fromkeys(counts, 0))
        for label, count in counts.items():
            total[label] += count


def _keep_or_clear(partial: Path, plan: Plan) -> None:
    """Keep the parts of a run with these settings; throw away those of any other."""
    stamp = json.dumps({"format": FORMAT, "part_rows": PART_ROWS, "settings": plan.settings}, sort_keys=True)
    file = partial / "settings.json"
    if not (file.is_file() and file.read_text() == stamp):
        for path in partial.iterdir():
            log.info("%s: left by a run with other settings; starting anew", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (partial / "parts").mkdir()
        write_atomically(file, stamp)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    opened = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"{partial}: another run is at work in it; wait for it or stop it") from None
    finally:
        os.close(opened)


def _is_finished(directory: Path, part: Part) -> bool:
    note = _note(directory, part)
    if not note.is_file():
        return False
    shard = read_json(FinishedPart, note).shard
    return shard is None or (directory / shard.file).is_file()


def _note(directory: Path, part: Part) -> Path:
    return directory / "parts" / f"{part.split}-{part.number:05d}.json"
