"""In which order products are seen: seeded, and able to go on at any update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class ShuffledBatches(Sampler[list[int]]):
    """One rank's micro-batches of one epoch, in an order that depends on seed and epoch only.

    Row groups are shuffled, then the products among `window` row groups at a time, so that a loader
    process that keeps `window` row groups reads each only once an epoch. The global batch of an
    update holds the same products for any number of ranks. Products that do not fill the last update
    wait for another epoch.

    Args:
        starts: first product of each row group, and the end.
        batch_size: products of an update over all ranks.
        micro_batch_size: products of one item.
        first_update: where to go on.
    """

    def __init__(
        self,
        starts: Sequence[int],
        batch_size: int,
        micro_batch_size: int,
        *,
        rank: int,
        world_size: int,
        seed: int,
        epoch: int,
        window: int = 64,
        first_update: int = 0,
    ) -> None:
        self.starts, self.window, self.seed, self.epoch = starts, window, seed, epoch
        self.batch_size, self.micro_batch_size, self.first_update = batch_size, micro_batch_size, first_update
        self.rank, self.world_size = rank, world_size
        self.updates = starts[-1] // batch_size

    def order(self) -> np.ndarray:
        """All products of the epoch, shuffled."""
        rng = np.random.default_rng((self.seed, self.epoch))
        groups = rng.permutation(len(self.starts) - 1)
        parts = []
        for first in range(0, len(groups), self.window):
            chosen = groups[first : first + self.window]
            parts.append(
                rng.permutation(np.concatenate([np.arange(self.starts[g], self.starts[g + 1]) for g in chosen]))
            )
        return np.concatenate(parts)

    def __len__(self) -> int:
        return (self.updates - self.first_update) * self.batch_size // (self.micro_batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        order, step = self.order(), self.micro_batch_size * self.world_size
        for first in range(self.first_update * self.batch_size, self.updates * self.batch_size, step):
            mine = first + self.rank * self.micro_batch_size
            yield order[mine : mine + self.micro_batch_size].tolist()


class OrderedBatches(Sampler[list[int]]):
    """One rank's batches for evaluation: every product once, and as many batches on every rank.

    Where products run out, the last one is repeated; `train.predict` drops the repetitions.
    """

    def __init__(self, rows: int, batch_size: int, *, rank: int, world_size: int) -> None:
        self.rows, self.batch_size, self.rank, self.world_size = rows, batch_size, rank, world_size

    def __len__(self) -> int:
        return -(-self.rows // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(len(self)):
            first = (step * self.world_size + self.rank) * self.batch_size
            yield [min(index, self.rows - 1) for index in range(first, first + self.batch_size)]
