"""Products of one split to Parquet shards, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cma_clip.files import file_sha256, to_disk
from dataset.format import Shard, Split, shard_schema
from dataset.products import Product
from model.tasks import Task

ROW_GROUP_ROWS = 256
ROW_GROUP_BYTES = 256 << 20
SHARD_ROWS = 16_384


class ShardWriter:
    """Collects the products of one split into row groups and shards.

    Args:
        directory: of the data set.
        first: the number of the first shard.
    """

    def __init__(self, directory: Path, split: str, tasks: Sequence[Task], first: int = 0) -> None:
        self.directory, self.split, self.first = directory, split, first
        self.schema = shard_schema(tasks)
        self.tasks = {task.name: task for task in tasks}
        self.known = {task.name: frozenset(task.labels) for task in tasks}
        self.counts: dict[str, Counter[str]] = {task.name: Counter() for task in tasks}
        self.pending: list[Product] = []
        self.pending_bytes = 0
        self.shards: list[Shard] = []
        self.file: pq.ParquetWriter | None = None
        self.file_rows = 0

    def add(self, product: Product) -> None:
        """Take one product; its labels must be among the tasks' labels."""
        for name, task in self.tasks.items():
            chosen = task.labels_in(product.labels[name])
            assert self.known[name].issuperset(chosen), (name, chosen)
            self.counts[name].update(chosen)
        self.pending.append(product)
        self.pending_bytes += len(product.image)
        if len(self.pending) == ROW_GROUP_ROWS or self.pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> Split:
        """Write what is pending and describe the split; only labels that occurred are counted."""
        self._flush()
        self._end_shard()
        counts = {name: dict(counter) for name, counter in self.counts.items()}
        return Split(rows=sum(shard.rows for shard in self.shards), shards=self.shards, label_counts=counts)

    def _flush(self) -> None:
        if not self.pending:
            return
        columns = {name: [getattr(p, name) for p in self.pending] for name in ("id", "image", "title")}
        columns |= {name: [p.labels[name] for p in self.pending] for name in self.known}
        self.file = self.file or self._new_file()
        self.file.write_table(pa.table(columns, schema=self.schema), row_group_size=len(self.pending))
        self.file_rows += len(self.pending)
        self.pending, self.pending_bytes = [], 0
        if self.file_rows >= SHARD_ROWS:
            self._end_shard()

    def _new_file(self) -> pq.ParquetWriter:
        path = self._path()
        path.parent.mkdir(parents=True, exist_ok=True)
        # A relative path with a colon would be taken for an address.
        # Statistics would repeat whole images as minimum and maximum; JPEG does not compress.
        return pq.ParquetWriter(
            path.absolute(), self.schema, compression="none", use_dictionary=False, write_statistics=False
        )

    def _end_shard(self) -> None:
        if self.file is None:
            return
        self.file.close()
        path = self._path()
        to_disk(path)
        name = path.relative_to(self.directory).as_posix()
        self.shards.append(Shard(file=name, rows=self.file_rows, bytes=path.stat().st_size, sha256=file_sha256(path)))
        self.file, self.file_rows = None, 0

    def _path(self) -> Path:
        return self.directory / f"split={self.split}" / f"{self.first + len(self.shards):05d}.parquet"
