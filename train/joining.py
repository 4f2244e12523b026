"""How strongly the deep part and the wide part count for each task: two numbers, from what both say of validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from model.cma_clip import Output
from model.tasks import TaskSet
from model.wide import WidePart, joined, task_of_columns
from train.data import Batch, ProductDataset
from train.losses import classification_losses
from train.predict import Predictions, predict
from train.ranks import Ranks

# N products, C labels of all tasks, K tasks

STEPS = 100
EVEN = 0.5  # the strength of both where nothing is known
HOLD = 1e-3  # of the loss; what holds strengths there that nothing depends on


class Joining:
    """Joins what the deep part says of validation to what the wide part says, which no epoch changes.

    Args:
        wide: fitted; while this trains, the deep part alone counts in the network.
        validation: what `fit` is told the deep part's answers for.
        positive_weight_C: as in train.losses.
    """

    def __init__(
        self,
        wide: WidePart,
        validation: ProductDataset,
        batch_size: int,
        ranks: Ranks,
        workers: int,
        look: Callable[[], None],
        positive_weight_C: Tensor | None,
    ) -> None:
        self.wide, self.tasks, self.positive_weight_C = wide, validation.tasks, positive_weight_C
        self.strengths_2K = torch.full((2, len(self.tasks)), EVEN)
        wide.join(None)
        # Only the first has fitted it, or read what was fitted before.
        ranks.of_first(buffer for buffer in wide.buffers() if buffer.is_floating_point())
        self.wide_NC = predict(self._said, validation, batch_size, ranks, workers, look).logits_NC

    def _said(self, batch: Batch) -> Output:
        said = batch.seen_by(self.wide)
        return Output(said.logits_BC, said.evidence_BK)

    def fit(self, deep: Predictions) -> Predictions:
        """The answers of both parts together, as strong as makes the least loss of them."""
        self.strengths_2K = fit_strengths(
            deep.logits_NC, self.wide_NC, deep.targets_NC, self.tasks, self.positive_weight_C
        )
        strengths_2C = self.strengths_2K[:, task_of_columns(self.tasks)]
        return deep._replace(logits_NC=joined(strengths_2C, deep.logits_NC, self.wide_NC))

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """The network answers by both parts, as `fit` found them."""
        self.wide.join(self.strengths_2K)
        yield
        self.wide.join(None)


def fit_strengths(
    deep_NC: Tensor, wide_NC: Tensor, targets_NC: Tensor, tasks: TaskSet, positive_weight_C: Tensor | None = None
) -> Tensor:
    """Strengths above 0 of the deep part's logits and of the wide part's, [2, K], that make the least loss."""
    task_C = task_of_columns(tasks)
    exponents_2K = torch.full((2, len(tasks)), EVEN).log().requires_grad_()
    optimizer = torch.optim.LBFGS([exponents_2K], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NC = joined(exponents_2K.exp()[:, task_C], deep_NC, wide_NC)
        sums_K, counts_K = classification_losses(logits_NC, targets_NC, tasks, positive_weight_C)
        total = (sums_K / counts_K.clamp(min=1)).sum() + HOLD * (exponents_2K - math.log(EVEN)).square().sum()
        total.backward()
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return exponents_2K.detach().exp()
