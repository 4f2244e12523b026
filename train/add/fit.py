"""Trains what is a new task's own: its relevance vector, its head, and what the wide part says of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from model.cma_clip import CMAClip, Output
from model.tasks import Task, has_labels
from model.wide import WidePart, joined
from train.acceptance import with_acceptance
from train.cache.rows import CachedProducts
from train.class_weights import inverse_frequencies
from train.data import Batch
from train.engine import parameter_groups, warmup_cosine
from train.fit_wide import AT_A_TIME, FITTED_TO, features_of, fit_tasks, spread
from train.joining import fit_strengths
from train.losses import ClassificationObjective
from train.predict import Predictions, loss_and_metrics, predict
from train.ranks import Ranks
from train.recipe import Recipe
from train.temperature import fit_temperatures
from train.thresholds import fit_thresholds

# B batch, N products, C columns and L labels of the new task

UPDATES, FEWEST_EPOCHS = 1000, 8
SMALLEST, LARGEST = 64, 1024  # batches
PRODUCTS_OF_AN_UPDATE = 1 / 64  # of all, in between
LEARNING_RATE = 1e-3
PREDICTED_AT_ONCE = 1024


class Fitted(NamedTuple):
    """A task after its best epoch.

    Attributes:
        task: with all that validation decides.
        loss, epoch: of validation, and which it was.
        weights: the tensors that are the task's own.
    """

    task: Task
    loss: float
    epoch: int
    weights: list[Tensor]


class TaskFit:
    """A new task under way.

    Args:
        network: of the task alone, over the frozen parts of the one that it is to join (train.add.regrouped).
        train, validation: with its labels.
        recipe: that the network was trained by: what the stage `tuning` hides, how losses are weighed, the promise.
    """

    def __init__(self, network: CMAClip, train: CachedProducts, validation: CachedProducts, recipe: Recipe) -> None:
        self.ranks = Ranks(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self.network, self.train, self.validation, self.recipe = network, train, validation, recipe
        self.labelled = np.flatnonzero(has_labels(train.targets_NL))
        self.positive_weight_L = self._positive_weights() if recipe.class_weights == "inverse_frequency" else None
        self.wide_NC: Tensor | None = None
        if network.wide is not None:
            fit_wide_to(network.wide, train, self.labelled)
            network.wide.join(None)
        network.to(self.ranks.device)
        if network.wide is not None:
            self.wide_NC = self._predicted(validation, self._said_by_wide).logits_NC

    def run(self, epochs: int | None, batch_size: int | None) -> Fitted:
        """Train the epochs, or as many as suit the products, and leave the network as the best by validation's loss."""
        batch_size = batch_size or int(np.clip(len(self.labelled) * PRODUCTS_OF_AN_UPDATE, SMALLEST, LARGEST))
        updates = max(1, len(self.labelled) // batch_size)
        epochs = epochs or max(FEWEST_EPOCHS, math.ceil(UPDATES / updates))
        best: Fitted | None = None
        torch.manual_seed(self.recipe.seed)
        step = self._stepping(epochs * updates)
        for epoch in (bar := tqdm(range(1, epochs + 1), "new task", unit="epoch", mininterval=2)):
            self.network.modality_heads.train()
            for batch in self.train.batches(self._order(epoch, batch_size, updates), 0):
                step(batch.to(self.ranks.device))
            found = self._validated(epoch)
            bar.set_postfix_str(f"validation loss {found.loss:.4f}", refresh=False)
            best = found if best is None or found.loss < best.loss else best
        assert best is not None
        with torch.no_grad():
            for own, kept in zip(self._own(), best.weights, strict=True):
                own.copy_(kept)
        return best

    def _stepping(self, updates: int) -> Callable[[Batch], None]:
        """What makes an update; the stage `tuning` says how, but for titles and images that it exchanges."""
        settings = self.recipe.stages.tuning.model_copy(update={"mismatched": 0.0})
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = name.startswith("modality_heads.")
        objective = ClassificationObjective(self.network, self.train.tasks, settings, self.positive_weight_L)
        optimizer = torch.optim.AdamW(parameter_groups(objective, settings.weight_decay), LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(updates, settings.warmup_fraction))
        objective.to(self.ranks.device)

        def step(batch: Batch) -> None:
            optimizer.zero_grad()
            objective(batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), settings.gradient_clipping or math.inf)
            optimizer.step()
            schedule.step()

        return step

    def _order(self, epoch: int, batch_size: int, updates: int) -> list[list[int]]:
        places = np.random.default_rng((self.recipe.seed, epoch)).permutation(self.labelled)
        return [some.tolist() for some in np.array_split(places[: updates * batch_size], updates)]

    def _validated(self, epoch: int) -> Fitted:
        """What validation makes of the network; while it trains the deep part stays alone."""
        answers = self.answers(self.validation)
        tasks, strengths_21 = self.validation.tasks, None
        if self.wide_NC is not None:
            known = (answers.targets_NC, tasks, self.positive_weight_L)
            strengths_21 = fit_strengths(answers.logits_NC, self.wide_NC, *known)
            answers = answers._replace(logits_NC=joined(strengths_21, answers.logits_NC, self.wide_NC))
        else:
            tasks = fit_temperatures(answers.logits_NC, answers.targets_NC, tasks)
        tasks = fit_thresholds(answers.logits_NC, answers.targets_NC, tasks)
        tasks = with_acceptance(answers.logits_NC, answers.targets_NC, tasks, self.recipe.acceptance)
        loss, _ = loss_and_metrics(answers, tasks, self.positive_weight_L)
        weights = [own.detach().clone() for own in self._own()]
        if strengths_21 is not None:
            weights[-1] = strengths_21[:, 0]
        return Fitted(tasks[0], loss, epoch, weights)

    def _own(self) -> list[Tensor]:
        """What an epoch, or validation after it, changes."""
        wide = self.network.wide
        return self.network.modality_heads.of_task(0) + ([] if wide is None else [wide.strengths[:, 0]])

    def answers(self, products: CachedProducts, network: CMAClip | None = None) -> Predictions:
        """What the network, or another one over the same frozen parts, says of a split."""
        asked = (network or self.network).to(self.ranks.device).eval()
        return self._predicted(products, lambda batch: batch.classified_by(asked, batch.present_B2)[0])

    def _predicted(self, products: CachedProducts, classify: Callable[[Batch], Output]) -> Predictions:
        return predict(classify, products, PREDICTED_AT_ONCE, self.ranks, workers=0)

    def _said_by_wide(self, batch: Batch) -> Output:
        assert self.network.wide is not None
        said = batch.seen_by(self.network.wide)
        return Output(said.logits_BC, said.evidence_BK)

    def _positive_weights(self) -> Tensor:
        """As train.class_weights.positive_weights."""
        counts_L = (self.train.targets_NL[self.labelled] > 0).sum(axis=0)
        weights_L = inverse_frequencies(len(self.labelled), counts_L.tolist())
        return weights_L if self.train.tasks[0].weighs_labels else torch.ones_like(weights_L)


@torch.no_grad()
def fit_wide_to(wide: WidePart, products: CachedProducts, labelled: np.ndarray) -> None:
    """Fit the wide part's models of the only task to the complete ones of these products, FITTED_TO at most."""
    given = products.values_of("present", labelled).bool().all(dim=1) & products.values_of("readable", labelled).bool()
    complete = labelled[given.numpy()]
    if not len(complete):
        return
    places = complete[spread(len(complete), FITTED_TO)]
    chunks = [places[first : first + AT_A_TIME].tolist() for first in range(0, len(places), AT_A_TIME)]
    titles, statistics = [], []
    for batch in products.batches(chunks, 0):
        assert batch.statistics_BF is not None
        titles.append(batch.input_ids_BT)
        statistics.append(batch.statistics_BF.float())
    targets_NL = products.targets_NL[places].astype(np.float32)
    fit_tasks(wide, features_of(wide, torch.cat(statistics), titles), products.tasks.split(targets_NL))
