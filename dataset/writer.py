"""Products to Parquet shards and `dataset.json`, all or nothing, in bounded memory."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from cma_clip.files import new_directory
from dataset.format import SPLITS, DatasetInfo, Shard, Split, shard_schema
from model.tasks import Task

ROW_GROUP_ROWS = 256
ROW_GROUP_BYTES = 256 << 20
SHARD_ROWS = 16_384
LABELS_SHOWN = 20
Settings = dict[str, str | int | float | bool | None | list[str]]


@dataclass(frozen=True)
class Product:
    """One row. `labels`: task -> label, list of labels, or None where it has none."""

    id: str
    image: bytes
    title: str
    labels: dict[str, str | list[str] | None]
    split: str


@dataclass(frozen=True)
class Reject:
    """A row of the source that could not be used; `row` counts from 1."""

    row: int
    id: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What is to be written where.

    Attributes:
        total: rows of the source, for the progress bar; None if unknown.
        max_rejects: largest share of rejected rows, 0 to 1, before the data set counts as wrong.
        next_stage: what the summary proposes to train, and with which recipe.
    """

    directory: Path
    tasks: Sequence[Task]
    source: str
    settings: Settings
    total: int | None = None
    overwrite: bool = False
    max_rejects: float = 0.5
    next_stage: str = "warmup --config train/recipes/apa.yaml"


def write_dataset(plan: Plan, rows: Iterable[Product | Reject]) -> DatasetInfo:
    """Write the data set in one step: whatever fails, `plan.directory` stays as it was.

    Raises:
        ValueError: the directory is taken, too many rows are rejected, or no training row is left.
    """
    check_free(plan)
    with new_directory(plan.directory) as directory:
        writers = {name: SplitWriter(directory, name, plan.tasks) for name in SPLITS}
        rejects = RejectList(directory / "rejects.csv")
        for row in tqdm(rows, total=plan.total, unit=" rows", desc=plan.directory.name, disable=None):
            if isinstance(row, Reject):
                rejects.add(row)
            else:
                writers[row.split].add(row)
        rejects.close()
        closed = {name: writers[name].close() for name in SPLITS}
        info = describe(plan, {name: split for name, split in closed.items() if split.rows})
        rejects.check(info, plan.max_rejects)
        (directory / "dataset.json").write_text(info.model_dump_json(indent=2) + "\n")
    print(summary(plan, info, rejects.count))
    return info


def already_there(plan: Plan) -> bool:
    """Whether the directory holds the data set of these very settings, which is then said; else it must be free.

    Raises:
        ValueError: as `check_free`.
    """
    is_there = not plan.overwrite and (plan.directory / "dataset.json").is_file()
    if is_there and DatasetInfo.read(plan.directory).settings == plan.settings:
        print(f"{plan.directory}: already there, made with the same settings")
        return True
    check_free(plan)
    return False


def check_free(plan: Plan) -> None:
    """Refuse to write over anything but an old data set, and over that only if asked to.

    Raises:
        ValueError: the directory is taken.
    """
    directory = plan.directory
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    if not (directory / "dataset.json").is_file():
        raise ValueError(f"{directory}: is there already and is not a data set (no dataset.json in it)")
    if not plan.overwrite:
        raise ValueError(f"{directory}: holds a data set of other settings; --overwrite replaces it")


class SplitWriter:
    """Collects the products of one split into row groups and shards, numbered from `first`."""

    def __init__(self, directory: Path, name: str, tasks: Sequence[Task], first: int = 0):
        self.directory, self.name, self.tasks, self.first = directory, name, tasks, first
        self.schema = shard_schema(tasks)
        self.pending: list[Product] = []
        self.pending_bytes = 0
        self.shards: list[Shard] = []
        self.counts = {task.name: Counter(dict.fromkeys(task.labels, 0)) for task in tasks}
        self.file: pq.ParquetWriter | None = None
        self.file_rows = 0

    def add(self, product: Product) -> None:
        """Take one product; its labels must be among the tasks' labels."""
        for task in self.tasks:
            chosen = task.labels_in(product.labels[task.name])
            assert all(label in self.counts[task.name] for label in chosen), (task.name, chosen)
            self.counts[task.name].update(chosen)
        self.pending.append(product)
        self.pending_bytes += len(product.image)
        if len(self.pending) == ROW_GROUP_ROWS or self.pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> Split:
        """Write what is pending and describe the split."""
        self._flush()
        self._end_shard()
        counts = {name: dict(counter) for name, counter in self.counts.items()}
        return Split(rows=sum(s.rows for s in self.shards), shards=self.shards, label_counts=counts)

    def _flush(self) -> None:
        if not self.pending:
            return
        columns = {name: [getattr(p, name) for p in self.pending] for name in ("id", "image", "title")}
        columns |= {task.name: [p.labels[task.name] for p in self.pending] for task in self.tasks}
        file = self.file or self._new_shard()
        file.write_table(pa.table(columns, schema=self.schema), row_group_size=len(self.pending))
        self.file_rows += len(self.pending)
        self.pending, self.pending_bytes = [], 0
        if self.file_rows >= SHARD_ROWS:
            self._end_shard()

    def _new_shard(self) -> pq.ParquetWriter:
        path = self._shard_path()
        path.parent.mkdir(exist_ok=True)
        # Statistics would repeat whole pictures as minimum and maximum; JPEG does not compress.
        self.file = pq.ParquetWriter(
            path, self.schema, compression="none", use_dictionary=False, write_statistics=False
        )
        return self.file

    def _end_shard(self) -> None:
        if self.file is None:
            return
        self.file.close()
        path = self._shard_path()
        with path.open("rb", buffering=0) as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        name = path.relative_to(self.directory).as_posix()
        self.shards.append(Shard(file=name, rows=self.file_rows, sha256=digest))
        self.file, self.file_rows = None, 0

    def _shard_path(self) -> Path:
        return self.directory / f"split={self.name}" / f"{self.first + len(self.shards):05d}.parquet"


class RejectList:
    """rejects.csv; the file begins with the first reject."""

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self.first: Reject | None = None
        self.file: TextIO | None = None

    def add(self, reject: Reject) -> None:
        """Note one row."""
        if self.file is None:
            self.first = reject
            self.file = self.path.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            csv.writer(self.file).writerow(("row", "id", "reason"))
        csv.writer(self.file).writerow((reject.row, reject.id, reject.reason))
        self.count += 1

    def close(self) -> None:
        """Finish the file."""
        if self.file is not None:
            self.file.close()

    def check(self, info: DatasetInfo, most: float) -> None:
        """Refuse a data set that lost too many rows or has none to train on.

        Raises:
            ValueError: with the first reject as an example.
        """
        rows = sum(split.rows for split in info.splits.values()) + self.count
        self.refuse_above(most, rows)
        if "train" not in info.splits:
            raise ValueError(
                f"no row is left for the train split ({rows} rows, {self.count} rejected){self._example()}"
            )

    def refuse_above(self, most: float, rows: int) -> None:
        """Refuse more rejects than the share `most` of `rows`; a long run can know that before its end.

        Raises:
            ValueError: with the first reject as an example.
        """
        if self.count > most * rows:
            raise ValueError(
                f"{self.count} of {rows} rows rejected, --max-rejects allows {100 * most:g}%{self._example()}"
            )

    def _example(self) -> str:
        return f"; row {self.first.row}: {self.first.reason}" if self.first else ""


def describe(plan: Plan, splits: dict[str, Split]) -> DatasetInfo:
    """The content of `dataset.json`; `splits` holds those with rows, in their order."""
    digests = "".join(shard.sha256 for split in splits.values() for shard in split.shards)
    return DatasetInfo(
        tasks=plan.tasks,
        splits=splits,  # type: ignore[arg-type]  # pydantic checks the names
        source=plan.source,
        settings=plan.settings,
        hash=hashlib.sha256(digests.encode()).hexdigest(),
    )


def summary(plan: Plan, info: DatasetInfo, rejects: int) -> str:
    """What was written, for people, and the command that comes next."""
    directory = plan.directory
    size = sum((directory / shard.file).stat().st_size for s in info.splits.values() for shard in s.shards)
    rows = ", ".join(f"{name} {split.rows:,}" for name, split in info.splits.items())
    lines = [f"{directory}: {rows} products, {size / 1e6:,.1f} MB, {rejects:,} rejected"]
    for task in info.tasks:
        counts: Counter[str] = Counter()
        for split in info.splits.values():
            counts.update(split.label_counts[task.name])
        common = [f"{label} {count:,}" for label, count in counts.most_common(LABELS_SHOWN)]
        more = f", and {len(counts) - LABELS_SHOWN} more" if len(counts) > LABELS_SHOWN else ""
        lines.append(f"  {task.name} ({task.kind}, {len(task.labels)} labels): {', '.join(common)}{more}")
    if rejects:
        lines.append(f"  rejected rows and why: {directory / 'rejects.csv'}")
    lines.append(f"next: deepspeed train/main.py --stage {plan.next_stage} --data {directory} --output runs/NAME")
    return "\n".join(lines)
