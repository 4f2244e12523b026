"""A split of a cache, in the place of the data set's own."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from model.tasks import MISSING, TaskSet
from train.cache.batches import CachedBatch, TokenBatch, VectorBatch
from train.cache.files import PartFile, to_tensor
from train.cache.layout import BFLOAT16, CacheInfo, Column
from train.data import ProductDataset
from train.wrong_titles import EMPTY

# B batch, N products, T token ids, D width, L labels of all tasks

OF_TITLES = ("input_ids", "length")  # other columns are of images, or of both


class CachedProducts(ProductDataset):
    """The products of a split with their labels, and in place of titles and pixels what was cached of them.

    Ids and labels are kept in memory, a byte a label; what was cached is read where it lies.

    Args:
        original: the split; the cache was checked to be of its data set.
        directory, info: of the cache.
        columns: from columns_of.
        tasks: those of the data set's that are wanted; all unless given.
        labels: of the only task, id -> label as a data set stores it, in the place of a column of the data set.
    """

    def __init__(
        self,
        original: ProductDataset,
        directory: Path,
        split: str,
        info: CacheInfo,
        columns: dict[str, Column],
        tasks: TaskSet | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        vars(self).update(vars(original))
        self.layout, self.tasks = columns, tasks or original.tasks
        self.parts = [PartFile(directory / shard.file, columns) for shard in info.splits[split]]
        self.part_starts = np.array([0, *accumulate(part.rows for part in self.parts)])
        assert self.part_starts[-1] == self.starts[-1], (directory, self.name)
        known = original.tasks if labels is None else self.tasks
        encode = original.encode if labels is None else known.encode
        names = [task.name for task in known.labelled]
        ids, targets = [], []
        for group in self.in_groups("id", *(names if labels is None else ())):
            ids.append(pa.array(group["id"], pa.string()))
            if labels is not None:
                group[names[0]] = [labels.get(id) for id in group["id"]]
            targets.append(_targets(group, names, encode))
        wanted, of_all_NL = [task.name for task in self.tasks], known.split(np.concatenate(targets))
        self.ids = pa.chunked_array(ids)
        self.targets_NL = np.concatenate([own_NL for task, own_NL in of_all_NL if task.name in wanted], axis=1)

    def batches(self, order: Iterable[list[int]], workers: int) -> Generator[CachedBatch]:
        """As ProductDataset.batches; nothing is left for workers to do."""
        for places in order:
            yield self.batch(np.asarray(places), np.asarray(places))

    def batch(self, titles_B: np.ndarray, images_B: np.ndarray) -> CachedBatch:
        """Products: of these places all but the titles, which are of the others."""
        own = {name: self.values_of(name, titles_B if name in OF_TITLES else images_B) for name in self.layout}
        length, readable_B = self.preprocess.padded_length(int(own["length"].max())), own["readable"].bool()
        targets_BL = torch.from_numpy(self.targets_NL[images_B].astype(np.float32))
        targets_BL[~readable_B] = MISSING
        ids = [self.ids[place].as_py() for place in images_B.tolist()]
        given: dict[str, Any] = {
            "ids": ids,
            "input_ids_BT": own["input_ids"][:, :length].int(),
            "pixels_BHWC": torch.empty(len(ids), 0, dtype=torch.uint8),
            "present_B2": own["present"].bool(),
            "targets_BC": targets_BL,
            "readable_B": readable_B,
            "problems": _problems(ids, readable_B),
            "statistics_BF": own.get("statistics"),
        }
        if "vectors" in own:
            return VectorBatch(**given, vectors_B4D=own["vectors"], alike_B1=own.get("alike"))
        given |= {"image_BPD": own["image"], "small_B3SS": own.get("small")}
        return TokenBatch(**given, text_BTD=self._text(titles_B, length))

    def values_of(self, name: str, places_B: np.ndarray) -> Tensor:
        """Values of a column at these places of the split, [B, *shape]."""
        column, part_B = self.layout[name], self._part_of(places_B)
        values = np.empty((len(places_B), *column.shape), dtype=column.stored)
        for part in np.unique(part_B):
            here = part_B == part
            values[here] = self.parts[part].values[name][places_B[here] - self.part_starts[part]]
        return to_tensor(values, column)

    def _part_of(self, places_B: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.part_starts, places_B, side="right") - 1

    def _text(self, places_B: np.ndarray, length: int) -> Tensor:
        """Tokens of titles, padded with zeros, [B, T, D]."""
        width = self.layout["image"].shape[1]
        values = np.zeros((len(places_B), length, width), dtype=np.uint16)
        for row, (place, part) in enumerate(zip(places_B, self._part_of(places_B), strict=True)):
            tokens = self.parts[part].text(place - self.part_starts[part], width)
            values[row, : len(tokens)] = tokens
        return to_tensor(values, Column(BFLOAT16, (length, width)))


class CachedUnderWrongTitles(CachedProducts):
    """As train.wrong_titles.WithWrongTitles: behind the split, all of it again under titles from half a split away."""

    def __len__(self) -> int:
        return 2 * self.starts[-1]

    def batches(self, order: Iterable[list[int]], workers: int) -> Generator[CachedBatch]:
        products = self.starts[-1]
        for places in order:
            images_B, is_wrong_B = np.asarray(places) % products, np.asarray(places) >= products
            titles_B = np.where(is_wrong_B, (images_B + products // 2) % products, images_B)
            batch, is_wrong_B1 = self.batch(titles_B, images_B), torch.from_numpy(is_wrong_B)[:, None]
            ids, other_ids = (self.values_of("input_ids", places_B).int() for places_B in (images_B, titles_B))
            differs_B = (ids != other_ids).any(dim=1) & (self.values_of("length", titles_B).int() > EMPTY)
            told_B = batch.present_B2.all(dim=1) & batch.readable_B & (differs_B | ~is_wrong_B1[:, 0])
            batch.targets_BC[is_wrong_B1[:, 0]] = MISSING
            told_BL = told_B[:, None] & torch.from_numpy(self.tasks.is_mismatch_L)
            batch.targets_BC = torch.where(told_BL, is_wrong_B1.float(), batch.targets_BC)
            batch.readable_B |= is_wrong_B1[:, 0]
            batch.problems = _problems(batch.ids, batch.readable_B)
            yield batch


def _problems(ids: Sequence[str], readable_B: Tensor) -> list[str]:
    return [f"{ids[row]}: could not be read when it was cached" for row in (~readable_B).nonzero().flatten().tolist()]


def _targets(
    group: Mapping[str, list[Any]], names: Sequence[str], encode: Callable[[Mapping[str, Any]], np.ndarray]
) -> np.ndarray:
    """Of a row group's products, int8 [N, L]; few products have labels that no other has."""
    keys = [tuple(map(repr, labels)) for labels in zip(*(group[name] for name in names), strict=True)]
    examples = dict(zip(keys, range(len(keys)), strict=True))
    rows = {key: {name: group[name][place] for name in ("id", *names)} for key, place in examples.items()}
    known = {key: encode(row).astype(np.int8) for key, row in rows.items()}
    return np.stack([known[key] for key in keys])
