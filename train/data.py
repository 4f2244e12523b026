"""Parquet shards to batches."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dataset.format import DatasetInfo
from dataset.stored import StoredRows
from model.clip_towers import text_mask
from model.cma_clip import Network, Output
from model.config import PreprocessConfig
from model.preprocess import TitleTokenizer, pad_titles, pixels_and_presence
from model.tasks import MISSING, TaskSet
from model.tokenizer import build_tokenizer
from model.wide import Wide, WidePart

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
    labels a product has, 0 at the others, MISSING at all labels of a task it has no label for, NOT_ASKED at those of
    one that is not asked of it.
    readable_B: False where the product could not be read; `problems` says why.
    """

    ids: list[str]
    input_ids_BT: Tensor
    pixels_BHWC: Tensor
    present_B2: Tensor
    targets_BC: Tensor
    readable_B: Tensor
    problems: list[str]

    def classified_by(self, network: Network, present_B2: Tensor) -> tuple[Output, Tensor | None]:
        """As Network.with_evidence; `present_B2` are titles and images that are not hidden."""
        return network.with_evidence(self.input_ids_BT, self.pixels_BHWC, present_B2)

    def seen_by(self, wide: WidePart) -> Wide:
        return wide(self.input_ids_BT, text_mask(self.input_ids_BT), self.pixels_BHWC, self.present_B2)

    def exchanged(self, title_of_B: Tensor, image_of_B: Tensor) -> Self:
        """The batch in which each product has the title, and the image, of the product at this place."""
        return replace(self, input_ids_BT=self.input_ids_BT[title_of_B], pixels_BHWC=self.pixels_BHWC[image_of_B])

    def pin_memory(self) -> Self:
        """Asked for by DataLoader, so that copies to a GPU run beside the computation."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Self:
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors)


class ProductDataset(StoredRows, Dataset):
    """One split of a data set, as the network reads it; what is not said here is as in StoredRows.

    Args:
        preprocess: for images and titles.
        tokenizer: fits `preprocess`.
        tasks: what targets are of, where that is not the data set's own. Which of them are asked of a product is for
            the data set to say, and for these where it says nothing.
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
        super().__init__(directory, split, cached_row_groups)
        own = DatasetInfo.read(directory).tasks
        self.tasks, self.preprocess, self.tokenizer = tasks or own, preprocess, tokenizer
        self._asked = self.tasks.with_conditions_of(own)

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Sample:
        row = self.product(index)
        targets = self.encode(row)
        title, image = row["title"] or "", row["image"] or b""
        try:
            input_ids = self.tokenizer.encode(title)
            pixels, present = pixels_and_presence(title, image, self.preprocess)
        except ValueError as error:
            size, problem = self.preprocess.image_size, f"{row['id']}: {error}"
            blank, nothing = np.zeros((size, size, 3), dtype=np.uint8), np.full_like(targets, MISSING)
            return Sample(row["id"], self.tokenizer.encode(""), blank, (True, True), nothing, problem)
        return Sample(row["id"], input_ids, pixels, present, targets, None)

    def encode(self, row: Mapping[str, Any]) -> np.ndarray:
        """A row's targets, as TaskSet.encode."""
        return self._asked.encode(row)

    def not_asked(self, row: Mapping[str, Any]) -> set[str]:
        """The tasks that are known not to be asked of a row's product."""
        return self._asked.not_asked(self._asked.labels_of(row))

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

    def batches(self, order: Iterable[list[int]], workers: int) -> Generator[Batch]:
        """Batches in the sampler's order. Close it: its workers live on while a traceback holds it, and ranks wait."""
        yield from DataLoader(
            self,
            batch_sampler=order,
            num_workers=workers,
            collate_fn=self.collate,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_live_and_die_with_the_rank,
        )


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
