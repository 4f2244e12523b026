"""A data set in parts: each is made by one process, depends on its items alone, and is noted when it is finished."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from cma_clip.files import file_sha256, write_atomically
from cma_clip.settings import StrictModel, read_json
from dataset.format import Split
from dataset.parallel import process_map
from dataset.products import Product, Reject
from dataset.resume import PARTS
from dataset.shards import SHARD_ROWS, ShardWriter
from dataset.splits import SPLITS
from model.tasks import Task

log = logging.getLogger(__name__)

PART_ROWS = 1024
PART_BYTES = 64 << 20
MANY_PARTS = 1024


@dataclass(frozen=True)
class Part:
    """What one process makes in one go: at most one shard for each split.

    Attributes:
        number: names its shards and its note.
        items: what its maker makes products from.
        split: of all the items; None where each has its own.
    """

    number: int
    items: Sequence[Any]
    split: str | None = None

    @property
    def name(self) -> str:
        return f"{self.split or 'rows'}-{self.number:05d}"


class Maker(Protocol):
    """Makes products. It is sent to every process once and opens its files there by itself."""

    def products(self, part: Part) -> Iterator[Product | Reject]:
        """The products of a part's items, in order; an item that has no place in the data set gives none."""


class FinishedPart(StrictModel):
    """A part that lies on the disk: the splits that it has products for, and of how many items it was made."""

    items: int
    splits: dict[str, Split]
    rejects: list[Reject]


@dataclass(frozen=True)
class Making:
    """What all parts of a data set have in common. `directory` holds `data/` and the notes."""

    maker: Maker
    directory: Path
    tasks: Sequence[Task]


def cut(items: Mapping[str, Sequence[Any]]) -> list[Part]:
    """Split name -> items, cut into parts of PART_ROWS items."""
    return [
        Part(number, items[split][start : start + PART_ROWS], split)
        for split in SPLITS
        for number, start in enumerate(range(0, len(items.get(split, ())), PART_ROWS))
    ]


def cut_rows(rows: Iterable[Any], total: int) -> Iterator[Part]:
    """A table's rows, of any split, cut by their number and by the bytes (`size`) that they bring along."""
    most_rows = part_rows(total)
    number, items, size = 0, [], 0
    for row in rows:
        items.append(row)
        size += getattr(row, "size", 0)
        if len(items) == most_rows or size >= PART_BYTES:
            yield Part(number, items)
            number, items, size = number + 1, [], 0
    if items:
        yield Part(number, items)


def part_rows(total: int) -> int:
    """Rows of a part: few, so that all processes have work to the end, but no more than MANY_PARTS if need be."""
    rows = PART_ROWS
    while rows < SHARD_ROWS and rows * MANY_PARTS < total:
        rows *= 2
    return rows


def finished_parts(
    parts: Iterable[Part], making: Making, workers: int
) -> AbstractContextManager[Iterator[FinishedPart]]:
    """Within it, every part, in order: as an earlier run noted it, or made now."""
    to_do = (replace(part, items=()) if _is_finished(making, part) else part for part in parts)
    return process_map(_finish, making, to_do, workers)


def _finish(making: Making, part: Part) -> FinishedPart:
    if not part.items:
        return read_json(FinishedPart, _note(making, part))
    writers = {name: ShardWriter(making.directory / "data", name, making.tasks, part.number) for name in SPLITS}
    rejects = []
    for row in making.maker.products(part):
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            writers[row.split].add(row)
    closed = {name: writer.close() for name, writer in writers.items()}
    splits = {name: split for name, split in closed.items() if split.rows}
    finished = FinishedPart(items=len(part.items), splits=splits, rejects=rejects)
    write_atomically(_note(making, part), finished.model_dump_json())
    return finished


def _is_finished(making: Making, part: Part) -> bool:
    """Whether its note and all of its shards are there and whole; what is damaged is said, and made again."""
    note = _note(making, part)
    if not note.is_file():
        return False
    try:
        splits = read_json(FinishedPart, note).splits.values()
        whole = [_is_whole(making.directory / "data" / shard.file, shard.sha256) for s in splits for shard in s.shards]
    except ValueError as error:
        log.warning("%s; this part is made again", error)
        return False
    return all(whole)


def _is_whole(shard: Path, sha256: str) -> bool:
    if shard.is_file() and file_sha256(shard) == sha256:
        return True
    log.warning("%s: missing or damaged; this part is made again", shard)
    return False


def _note(making: Making, part: Part) -> Path:
    return making.directory / PARTS / f"{part.name}.json"
