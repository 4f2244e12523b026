"""One stage from its first update to its published weights."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from cma_clip.command import Stopped
from model.config import BundleConfig
from model.tasks import TaskSet
from model.wide import WidePart
from train import checkpoint
from train.acceptance import remarks, with_acceptance
from train.class_weights import positive_weights
from train.contrastive import Cached, ContrastiveObjective
from train.data import Batch
from train.engine import attention_kernel, create_engine, has_finite_gradients, makes_step
from train.fit_wide import fit_wide
from train.job import StageJob
from train.joining import Joining
from train.logs import RunLog
from train.loss_window import LossWindow
from train.losses import ClassificationObjective, task_weights
from train.predict import Predictions, loss_and_metrics, mean_loss, predict
from train.ranks import AllRefuse, Ranks, trained_by
from train.reference import reference_of
from train.sampler import ShuffledBatches
from train.shards import verify_shards
from train.stage_parts import Parts
from train.stage_state import begin, finish
from train.stages import train_mode
from train.stops import Stop, StopAgreed
from train.temperature import fit_temperatures
from train.thresholds import fit_thresholds

READ_EVERY = 10


def train_stage(job: StageJob, parts: Parts, ranks: Ranks) -> None:
    """Do what is left of the stage and publish its best weights; raises as StageLoop.run."""
    verify_shards(job)
    if ranks.is_first:
        begin(job.directory, job.recipe, job.ds_config, job.state, job.restart)
    ranks.barrier()
    is_to_be_fitted = job.stage == job.architecture.stages[0] and not job.state.checkpoint
    if ranks.is_first and parts.network.wide is not None and is_to_be_fitted:
        fit_wide(parts.network.wide, parts.train)  # the others take it from here (Joining)
    StageLoop(job, parts, ranks).run()
    if ranks.is_first:
        finish(job.directory, job.state, job.output / "bundle" if job.stage != "contrastive" else None)
        best, loss = job.state.best_epoch, job.state.best_loss
        print(f"stage {job.stage}: epoch {best} is the best, validation loss {loss:.4f}")
        if job.stage != "contrastive":
            for remark in remarks(BundleConfig.read(job.output / "bundle/config.json").tasks):
                print(f"note: {remark}")


class StageLoop:
    """A stage under way on this rank.

    The validation split decides which weights are kept.
    """

    def __init__(self, job: StageJob, parts: Parts, ranks: Ranks) -> None:
        self.job, self.state, self.settings = job, job.state, job.settings
        (self.network, self.train, self.validation, _), self.ranks = parts, ranks
        self.micro_batch_size = job.ds_config["train_micro_batch_size_per_gpu"]
        self.accumulation = job.ds_config["gradient_accumulation_steps"]
        self.updates_per_epoch = len(self.train) // job.settings.batch_size
        self.positive_weight_C = (
            positive_weights(self.train) if job.recipe.class_weights == "inverse_frequency" else None
        )
        self.objective = self._objective()
        updates = job.settings.epochs * self.updates_per_epoch
        self.engine = create_engine(self.objective, job.settings, updates, job.ds_config)
        if self.state.checkpoint:
            checkpoint.load(self.engine, job.directory, self.state)
        self.saved = (self.state.epoch, self.state.update) if self.state.checkpoint else None
        self.log = RunLog(job.directory, ranks.rank, self._updates_done(), self.state.epoch)
        self.losses = LossWindow()
        self.saved_at = time.monotonic()
        self.stop = Stop(ranks)
        self.joining: Joining | None = None

    def run(self) -> None:
        """Train the epochs that are left and keep the best.

        Raises:
            Stopped: a signal came; the same command goes on from there.
            ValueError: the loss is not a number, or too many products cannot be read.
        """
        with attention_kernel(self.ranks.device, self.job.ds_config["torch_autocast"]["enabled"]):
            try:
                if self.network.wide is not None and self.job.stage != "contrastive":
                    self.joining = self._joining(self.network.wide)
                while self.state.epoch < self.settings.epochs:
                    self._train_epoch()
                    self._validate()
                    self.state.epoch, self.state.update = self.state.epoch + 1, 0
                    self._save()
                    self.stop.ask()
            except StopAgreed:
                self._save()
                raise Stopped("its checkpoint is written") from None
        self.log.close()

    def _objective(self) -> ClassificationObjective | ContrastiveObjective:
        if self.job.stage == "contrastive":
            return ContrastiveObjective(self.network, self.ranks.rank, self.ranks.world_size)
        weight_K = task_weights(self.train.tasks, self.job.recipe.multi_label_weight)
        return ClassificationObjective(self.network, self.train.tasks, self.settings, self.positive_weight_C, weight_K)

    def _joining(self, wide: WidePart) -> Joining:
        own = (self.micro_batch_size, self.ranks, self.job.recipe.loader_workers, self.stop.look)
        return Joining(wide, self.validation, *own, self.positive_weight_C)

    def _train_epoch(self) -> None:
        sampler = ShuffledBatches(
            self.train.starts,
            self.settings.batch_size,
            self.micro_batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            seed=self.job.recipe.seed,
            epoch=self.state.epoch,
            window=self.train.cache_size,
            first_update=self.state.update,
        )
        self.engine.train()
        train_mode(self.network, self.job.stage, self.job.architecture)
        workers = self.job.recipe.loader_workers
        with closing(self.train.batches(sampler, workers)) as batches, self._progress() as bar:
            while self.state.update < self.updates_per_epoch:
                stop, save = self._update(batches)
                bar.update()
                if len(self.losses) == READ_EVERY or self.state.update == self.updates_per_epoch:
                    self._log_losses(bar)
                if stop:
                    raise StopAgreed
                if save:
                    self._save()

    def _update(self, batches: Iterator[Batch]) -> tuple[bool, bool]:
        """One optimizer step; returns whether some rank has to stop, and whether it is time for a checkpoint.

        The ranks agree once an update, after its last gradient and before its step: so a step is never made where the
        loss of any rank is not finite. DeepSpeed's step waits for the device too (it reads the gradient's norm).

        Raises:
            StopAgreed: in an update that takes long; nothing of it is kept.
            ValueError: the loss or the gradient is not finite; the weights are those before this update.
        """
        losses: list[Tensor] = []
        products: list[tuple[str, str]] = []
        for step, (batch, cached) in enumerate(self._micro_batches(batches)):
            if step:
                self.engine.step()
                self.stop.look()
            products.append((batch.ids[0], batch.ids[-1]))
            self._seed(step)
            result = self.engine(batch, **cached)
            self.engine.backward(result.loss)
            losses.append(torch.stack([result.loss.detach(), *result.parts.values()]))
        losses_AK = torch.stack(losses)
        is_due = time.monotonic() - self.saved_at > 60 * self.job.recipe.checkpoint_minutes
        flags = (~losses_AK[:, 0].isfinite().all(), ~has_finite_gradients(self.engine), self.stop.requested, is_due)
        is_wrong, has_no_step, stop, save = self.ranks.any(*flags)
        if is_wrong:
            self._refuse(losses_AK[:, 0].tolist(), products)
        if has_no_step or not makes_step(self.engine):
            self._refuse_gradient(products)
        self.state.update += 1
        self.losses.add(self._updates_done(), self.engine.get_lr()[0], losses_AK, list(result.parts))
        return stop, save

    def _micro_batches(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, dict[str, Cached]]]:
        """Those of an update on this rank, on its device, with what the objective is to be given beside them.

        The contrastive loss of several needs the features of all of them first.
        """
        if not isinstance(self.objective, ContrastiveObjective) or self.accumulation == 1:
            for batch in itertools.islice(batches, self.accumulation):
                yield self._taken(batch), {}
            return
        together = [self._taken(batch) for batch in itertools.islice(batches, self.accumulation)]
        features = []
        for step, batch in enumerate(together):
            self._seed(step)
            with torch.no_grad():
                features.append(self.engine(batch, only_features=True))
            self.stop.look()
        for batch, cached in zip(together, self.objective.update_loss(features), strict=True):
            yield batch, {"cached": cached}

    def _taken(self, batch: Batch) -> Batch:
        self._count_rejects(batch.problems)
        return batch.to(self.ranks.device)

    def _seed(self, step: int) -> None:
        """Dropout depends on nothing but the place in the run, so that a run that was stopped repeats it."""
        torch.manual_seed(hash((self.job.recipe.seed, self._updates_done(), step, self.ranks.rank)))

    def _refuse(self, losses_A: list[float], products: list[tuple[str, str]]) -> None:
        """Stop before the step of this update.

        Raises:
            ValueError: always; it names the products of the micro-batch, on the rank that has it.
        """
        self._log_losses()
        wrong = [(loss, *ids) for loss, ids in zip(losses_A, products, strict=True) if not math.isfinite(loss)]
        what = (
            "the loss is {}, products {} … {}".format(*wrong[0]) if wrong else "the loss is not finite on another rank"
        )
        raise ValueError(self._before_this_update(what))

    def _refuse_gradient(self, products: list[tuple[str, str]]) -> None:
        """DeepSpeed leaves such a step out without a word (ZeRO 1 to 3), or makes it (0): here no step is made.

        Raises:
            AllRefuse: always; it names the products of the update, by rank.
        """
        self._log_losses()
        spans = self.ranks.tell((products[0][0], products[-1][-1]))
        named = ", ".join(f"{first} … {last} (rank {rank})" for rank, (first, last) in enumerate(spans))
        raise AllRefuse(self._before_this_update(f"the gradient is not finite, products {named}"))

    def _before_this_update(self, what: str) -> str:
        return (
            f"epoch {self.state.epoch + 1}, update {self.state.update + 1} of stage {self.job.stage}: {what};"
            f" the weights are those before this update and the last checkpoint is whole: lower"
            f" stages.{self.job.stage}.learning_rate and add --restart"
        )

    def _log_losses(self, bar: tqdm | None = None) -> None:
        for update in self.losses.read():
            self.log.update(*update)
            if bar:
                bar.set_postfix_str(f"loss {update.loss:.4f}", refresh=False)

    def _validate(self) -> None:
        """Through the engine, which gathers the weights that ZeRO-3 has spread."""
        self.engine.eval()
        metrics: dict[str, dict[str, Any]] = {}
        epoch = self.state.epoch + 1
        tasks = self.train.tasks
        predictions: Predictions | None = None
        own = (self.ranks, self.job.recipe.loader_workers, self.stop.look)
        if self.job.stage == "contrastive":
            loss = mean_loss(self._contrastive_loss, self.validation, self.micro_batch_size, self.accumulation, *own)
        else:
            classify = lambda batch: self.engine(batch).output  # noqa: E731
            predictions = predict(classify, self.validation, self.micro_batch_size, *own)
            self._count_rejects(predictions.problems)
            if self.joining:
                predictions = self.joining.fit(predictions)
            tasks = self._decided(predictions)
            weight = self.job.recipe.multi_label_weight
            loss, metrics = loss_and_metrics(predictions, tasks, self.positive_weight_C, weight)
        if not math.isfinite(loss):
            raise ValueError(f"the validation loss of stage {self.job.stage} is {loss} in epoch {epoch}")
        is_best = self.state.best_loss is None or loss < self.state.best_loss
        if is_best:
            self.state.best_loss, self.state.best_epoch = loss, epoch
            config = self._bundle_config(loss, tasks, predictions)
            with self.joining.in_network() if self.joining else nullcontext():
                checkpoint.save_best(self.engine, self.network, self.job.directory, config)
        self.log.validation(self._updates_done(), epoch, loss, metrics, is_best)

    def _decided(self, predictions: Predictions) -> TaskSet:
        """All that validation decides: how sharp scores are where no wide part does, thresholds, what is accepted."""
        said = predictions.logits_NC, predictions.targets_NC
        tasks = self.train.tasks if self.joining else fit_temperatures(*said, self.train.tasks)
        return with_acceptance(*said, fit_thresholds(*said, tasks), self.job.recipe.acceptance)

    def _contrastive_loss(self, micro_batches: Sequence[Batch]) -> Tensor:
        if len(micro_batches) == 1:
            return self.engine(micro_batches[0]).loss
        assert isinstance(self.objective, ContrastiveObjective)
        return self.objective.update_loss([self.engine(batch, only_features=True) for batch in micro_batches])[0].loss

    def _bundle_config(self, loss: float, tasks: TaskSet, predictions: Predictions | None) -> BundleConfig:
        """What is saved beside the weights; `predictions` are those of validation, wrong titles behind them or not."""
        recipe, served = self.job.recipe, None
        if predictions:
            of_split = sorted({*range(self.validation.starts[-1])} - {*predictions.unreadable})
            served = reference_of(predictions.of(of_split), tasks)
        return BundleConfig(
            # Whoever loads it decides what computes it.
            model=recipe.model.model_copy(update={"kernels": "auto"}),
            preprocess=self.train.preprocess,
            tasks=tasks,
            reference=served,
            provenance={
                "stage": self.job.stage,
                "epoch": self.state.epoch + 1,
                "validation_loss": loss,
                "data_hash": self.state.data_hash,
                "trained_by": trained_by(self.ranks),
                "recipe": recipe.model_dump(mode="json"),
            },
        )

    def _save(self) -> None:
        """Where the stage stands, unless that is what the last checkpoint holds."""
        self._log_losses()
        if self.saved != (self.state.epoch, self.state.update):
            self.log.to_disk()
            checkpoint.save(self.engine, self.job.directory, self.state)
            self.saved = (self.state.epoch, self.state.update)
        self.saved_at = time.monotonic()

    def _count_rejects(self, problems: list[str]) -> None:
        rejects = self.log.rejects(problems)
        allowed = self.job.recipe.max_reject_fraction * (len(self.train) + len(self.validation))
        if rejects > max(allowed, 1):
            raise ValueError(
                f"{rejects} products cannot be read, the last: {problems[-1]}; prepare the data again,"
                " or raise --max_reject_fraction"
            )

    def _updates_done(self) -> int:
        return self.state.epoch * self.updates_per_epoch + self.state.update

    def _progress(self) -> tqdm:
        label = f"{self.job.stage} {self.state.epoch + 1}/{self.settings.epochs}"
        options: dict[str, Any] = {"unit": "update", "disable": not self.ranks.is_first, "mininterval": 2}
        return tqdm(desc=label, initial=self.state.update, total=self.updates_per_epoch, **options)
