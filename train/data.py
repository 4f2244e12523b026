"""Parquet shards to batches."""

from __future__ import annotations

import bisect
import ctypes
import signal
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dataset.format import DatasetInfo
from model.config import PreprocessConfig
from model.preprocess import TitleTokenizer, pad_titles, pixels_and_presence
from model.tasks import MISSING, TaskSet
from model.tokenizer import build_tokenizer

CACHE_BYTES = 2 << 30  # of row groups in a process; above it they would be shuffled among fewer
IN_ORDER = 2  # row groups to cache where products are read one after the other: a batch may lie across two
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# B batch, T token ids, H and W image size, C labels of all tasks together


@dataclass
class Sample:
    """One product. `problem` says why it could not be read; then it is blank and carries no label."""

    id: str
    input_ids: np.ndarray
    pixels: np.ndarray
    present: tuple[bool, bool]
    targets: np.ndarray
    problem: str | None


@dataclass
class Batch:
    """Products side by side.

    input_ids_BT int32, pixels_BHWC uint8, present_B2 bool (title, image), targets_BC float32: 1 at the
    labels a product has, 0 at the others, MISSING at all labels of a task it has no label for.
    readable_B: False where the product could not be read; `problems` says why.
    """

    ids: list[str]
    input_ids_BT: Tensor
    pixels_BHWC: Tensor
    present_B2: Tensor
    targets_BC: Tensor
    readable_B: Tensor
    problems: list[str]

    def pin_memory(self) -> Batch:
        """Asked for by DataLoader, so that copies to a GPU run beside the computation."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**values | {name: change(value) for name, value in values.items() if isinstance(value, Tensor)})


class ProductDataset(Dataset):
    """One split of a data set.

    Args:
        directory: of the data set.
        split: train, validation or test.
        preprocess: for images and titles.
        tokenizer: fits `preprocess`.
        cached_row_groups: row groups that each process keeps in memory, fewer if they are more than CACHE_BYTES.
        tasks: what targets are of, where that is not the data set's own.
    Raises:
        ValueError: the split is missing or empty, or a shard is missing, unreadable or of another length.
    """

    def __init__(
        self,
        directory: Path,
        split: str,
        preprocess: PreprocessConfig,
        tokenizer: TitleTokenizer,
        cached_row_groups: int = 64,
        tasks: TaskSet | None = None,
    ) -> None:
        info = DatasetInfo.read(directory)
        if split not in info.splits or info.splits[split].rows == 0:
            raise ValueError(f"{directory}: the split {split!r} has no products; it has {sorted(info.splits)}")
        self.name = f"{directory}, split {split!r}"
        self.tasks, self.preprocess, self.tokenizer = tasks or info.tasks, preprocess, tokenizer
        self.row_groups: list[tuple[Path, int]] = []
        self.starts, largest = [0], 1
        for shard in info.splits[split].shards:
            for index, (rows, size) in enumerate(_row_groups(directory / shard.file, shard.rows)):
                self.row_groups.append((directory / shard.file, index))
                self.starts.append(self.starts[-1] + rows)
                largest = max(largest, size)
        self.cache_size = max(1, min(cached_row_groups, CACHE_BYTES // largest))
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Sample:
        row = self.product(index)
        targets = self.tasks.encode(row)
        title, image = row["title"] or "", row["image"] or b""
        try:
            input_ids = self.tokenizer.encode(title)
            pixels, present = pixels_and_presence(title, image, self.preprocess)
        except ValueError as error:
            size, problem = self.preprocess.image_size, f"{row['id']}: {error}"
            blank, nothing = np.zeros((size, size, 3), dtype=np.uint8), np.full_like(targets, MISSING)
            return Sample(row["id"], self.tokenizer.encode(""), blank, (True, True), nothing, problem)
        return Sample(row["id"], input_ids, pixels, present, targets, None)

    def product(self, index: int) -> dict[str, Any]:
        """The row as it is stored: id, image bytes, title, labels.

        A title that is no UTF-8 has surrogates in it, which `clean_title` refuses.
        """
        group = bisect.bisect_right(self.starts, index) - 1
        row = self._table(group).slice(index - self.starts[group], 1)
        errors = {"title": "surrogateescape"}
        return {name: _values(row[name], errors.get(name, "backslashreplace"))[0] for name in row.column_names}

    def columns(self, *names: str) -> dict[str, list[Any]]:
        """Columns of the whole split, as they are stored."""
        tables = [self._read(group, names) for group in range(len(self.row_groups))]
        table = pa.concat_tables(tables)
        return {name: _values(table[name], "backslashreplace") for name in table.column_names}

    def collate(self, samples: Sequence[Sample]) -> Batch:
        return Batch(
            ids=[sample.id for sample in samples],
            input_ids_BT=torch.from_numpy(pad_titles([sample.input_ids for sample in samples], self.preprocess)),
            pixels_BHWC=torch.from_numpy(np.stack([sample.pixels for sample in samples])),
            present_B2=torch.tensor([sample.present for sample in samples]),
            targets_BC=torch.from_numpy(np.stack([sample.targets for sample in samples])),
            readable_B=torch.tensor([sample.problem is None for sample in samples]),
            problems=[sample.problem for sample in samples if sample.problem],
        )

    def batches(self, order: Sampler[list[int]], workers: int) -> Generator[Batch]:
        """Batches in the sampler's order. Close it: its workers live on while a traceback holds it, and ranks wait."""
        yield from DataLoader(
            self,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_live_and_die_with_the_rank,
        )

    def _table(self, group: int) -> pa.Table:
        if group not in self._cache:
            if len(self._cache) >= self.cache_size:
                self._cache.popitem(last=False)
            self._cache[group] = self._read(group)
        self._cache.move_to_end(group)
        return self._cache[group]

    def _read(self, group: int, columns: Sequence[str] | None = None) -> pa.Table:
        path, index = self.row_groups[group]
        try:
            return pq.ParquetFile(path).read_row_group(index, columns=columns and list(columns))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path}: row group {index} is unreadable: {error}; prepare the data again") from error


def open_splits(
    directory: Path, preprocess: PreprocessConfig, cached_row_groups: int, tasks: TaskSet
) -> tuple[ProductDataset, ...]:
    """Those of training: train, which is shuffled among the cached row groups, and validation, which is not."""
    tokenizer = TitleTokenizer(build_tokenizer(preprocess.vocab_size), preprocess)
    cached = {"train": cached_row_groups, "validation": IN_ORDER}
    return tuple(
        ProductDataset(directory, split, preprocess, tokenizer, groups, tasks) for split, groups in cached.items()
    )


def _live_and_die_with_the_rank(_: int) -> None:
    """Ctrl-C and the launcher's SIGTERM reach the workers too; they must live until the checkpoint is written.

    After kill -9 of the rank a worker would hold the lock of the run for seconds more.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _values(column: pa.ChunkedArray, errors: str) -> list[Any]:
    """A column as Python has it; bytes that are no UTF-8 in a column of text are decoded as `errors` says."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        if pa.types.is_list(column.type):
            lists = column.cast(pa.list_(pa.binary())).to_pylist()
            return [value and [text.decode(errors=errors) for text in value] for value in lists]
        texts = column.cast(pa.binary()).to_pylist()
        return [text if text is None else text.decode(errors=errors) for text in texts]


def _row_groups(path: Path, rows: int) -> list[tuple[int, int]]:
    """Rows and bytes of each row group."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error}); prepare the data again") from error
    if metadata.num_rows != rows:
        raise ValueError(f"{path}: {metadata.num_rows} rows, dataset.json says {rows}; prepare the data again")
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]
