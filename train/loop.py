"""One stage from its first update to its published weights."""

from __future__ import annotations

import math
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from model.cma_clip import Network
from model.config import BundleConfig
from model.networks import NETWORKS, StageName
from model.tasks import TaskSet
from train import checkpoint
from train.class_weights import positive_weights
from train.data import ProductDataset, ShuffledBatches
from train.evaluation import Ranks, mean_loss, predict, score
from train.logs import RunLog
from train.losses import ClassificationObjective, ContrastiveObjective
from train.recipe import Recipe
from train.stages import StageState, train_mode
from train.thresholds import fit_thresholds


class Stopped(Exception):
    """SIGTERM or SIGINT came; the checkpoint is written."""


class StageRun:
    """A stage under way on this rank.

    Args:
        network: frozen as the stage wants it.
        train, validation: splits; `validation` decides which weights are kept.
        state: where to begin.
        ds_config: DeepSpeed's dictionary.
    """

    def __init__(
        self,
        stage: StageName,
        recipe: Recipe,
        network: Network,
        train: ProductDataset,
        validation: ProductDataset,
        stage_dir: Path,
        state: StageState,
        ds_config: dict[str, Any],
        ranks: Ranks,
    ) -> None:
        self.stage, self.recipe, self.config = stage, recipe, getattr(recipe.stages, stage)
        self.network, self.train, self.validation = network, train, validation
        self.stage_dir, self.state, self.ranks = stage_dir, state, ranks
        self.micro_batch_size = ds_config["train_micro_batch_size_per_gpu"]
        self.accumulation = ds_config["gradient_accumulation_steps"]
        self.is_bf16 = ds_config["torch_autocast"]["enabled"]
        self.positive_weight_C = positive_weights(train) if recipe.class_weights == "inverse_frequency" else None
        self.objective = (
            ContrastiveObjective(network, ranks.rank, ranks.world_size)
            if stage == "contrastive"
            else ClassificationObjective(network, train.tasks, self.config.modality_dropout, self.positive_weight_C)
        )
        optimizer = torch.optim.AdamW(parameter_groups(network, self.config.weight_decay), self.config.learning_rate)
        total = self.config.epochs * self.updates_per_epoch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(total, self.config.warmup_fraction))
        self.engine, *_ = deepspeed.initialize(
            model=self.objective, optimizer=optimizer, lr_scheduler=schedule, config=ds_config
        )
        if state.checkpoint:
            checkpoint.load(self.engine, stage_dir, state)
        self.log = RunLog(stage_dir, ranks.is_first, self._updates_done())
        self.rejects: set[str] = set()
        self.saved_at = time.monotonic()
        self.stop_requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request_stop)

    @property
    def updates_per_epoch(self) -> int:
        return len(self.train) // self.config.batch_size

    def run(self) -> None:
        """Train the epochs that are left, keep the best, mark the stage as finished.

        Raises:
            Stopped: a signal came; the same command goes on from there.
            ValueError: the loss is not a number, or too many products cannot be read.
        """
        with attention_kernel(self.ranks.device, self.is_bf16):
            while self.state.epoch < self.config.epochs:
                self._train_epoch()
                self._validate()
                self._save()
                if self._agree(self.stop_requested):
                    raise Stopped
        self.log.close()

    def _train_epoch(self) -> None:
        sampler = ShuffledBatches(
            self.train.starts,
            self.config.batch_size,
            self.micro_batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            seed=self.recipe.seed,
            epoch=self.state.epoch,
            window=self.recipe.shuffle_row_groups,
            first_update=self.state.update,
        )
        self.engine.train()
        train_mode(self.network, self.stage, NETWORKS[self.recipe.model.architecture])
        batches = iter(self.train.loader(sampler, self.recipe.loader_workers))
        with self._progress() as bar:
            while self.state.update < self.updates_per_epoch:
                loss, parts = self._update(batches)
                self.state.update += 1
                bar.update()
                bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
                self.log.update(self._updates_done(), loss, parts, self.engine.get_lr()[0])
                self._save_or_stop()
        self.state.epoch, self.state.update = self.state.epoch + 1, 0

    def _update(self, batches: Any) -> tuple[float, dict[str, float]]:
        """One optimizer step; returns the mean loss of this rank and its parts by task."""
        total = 0.0
        parts: dict[str, float] = {}
        for step in range(self.accumulation):
            batch = next(batches).to(self.ranks.device)
            self._count_rejects(batch.problems)
            # Dropout depends on nothing but the place in the run, so that a run that was stopped repeats it.
            torch.manual_seed(hash((self.recipe.seed, self._updates_done(), step, self.ranks.rank)))
            loss, losses, _ = self.engine(batch)
            total += loss.item() / self.accumulation
            if not math.isfinite(total):
                raise ValueError(
                    f"the loss of stage {self.stage} is {total} in epoch {self.state.epoch + 1}, update"
                    f" {self.state.update + 1}, products {batch.ids[0]} … {batch.ids[-1]}; the last checkpoint is"
                    f" whole: lower stages.{self.stage}.learning_rate and add --restart"
                )
            for name, value in losses.items():
                parts[name] = parts.get(name, 0.0) + value.item() / self.accumulation
            self.engine.backward(loss)
            self.engine.step()
        return total, parts

    def _validate(self) -> None:
        """Through the engine, which gathers the weights that ZeRO-3 has spread."""
        self.engine.eval()
        metrics: dict[str, dict[str, Any]] = {}
        tasks = self.train.tasks
        arguments = (self.validation, self.micro_batch_size, self.ranks, self.recipe.loader_workers)
        if self.stage == "contrastive":
            loss = mean_loss(self.engine, *arguments)
        else:
            predictions = predict(lambda batch: self.engine(batch).output, *arguments)
            self._count_rejects(predictions.problems)
            tasks = fit_thresholds(predictions.logits_NC, predictions.targets_NC, tasks)
            loss, metrics = score(predictions, tasks, self.positive_weight_C)
        if not math.isfinite(loss):
            raise ValueError(f"the validation loss of stage {self.stage} is {loss} in epoch {self.state.epoch}")
        is_best = self.state.best_loss is None or loss < self.state.best_loss
        if is_best:
            self.state.best_loss, self.state.best_epoch = loss, self.state.epoch
            checkpoint.save_best(self.engine, self.network, self.stage_dir, self._bundle_config(loss, tasks))
        self.log.validation(self._updates_done(), self.state.epoch, loss, metrics, is_best)

    def _bundle_config(self, loss: float, tasks: TaskSet) -> BundleConfig:
        return BundleConfig(
            # Whoever loads it decides what computes it.
            model=self.recipe.model.model_copy(update={"kernels": "auto"}),
            preprocess=self.train.preprocess,
            tasks=tasks,
            provenance={
                "stage": self.stage,
                "epoch": self.state.epoch,
                "validation_loss": loss,
                "data_hash": self.state.data_hash,
                "recipe": self.recipe.model_dump(mode="json"),
            },
        )

    def _save_or_stop(self) -> None:
        stop = self._agree(self.stop_requested)
        if stop or self._agree(time.monotonic() - self.saved_at > 60 * self.recipe.checkpoint_minutes):
            self._save()
        if stop:
            raise Stopped

    def _save(self) -> None:
        checkpoint.save(self.engine, self.stage_dir, self.state)
        self.saved_at = time.monotonic()

    def _agree(self, wanted: bool) -> bool:
        """Whether any rank wants it."""
        flag = torch.tensor([float(wanted)], device=self.ranks.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def _request_stop(self, *_: object) -> None:
        self.stop_requested = True

    def _count_rejects(self, problems: list[str]) -> None:
        self.rejects.update(problems)
        self.log.rejects(problems, self.ranks.rank)
        allowed = self.recipe.max_reject_fraction * (len(self.train) + len(self.validation))
        if len(self.rejects) > max(allowed, 1):
            raise ValueError(
                f"{len(self.rejects)} products cannot be read, the last: {problems[-1]}; prepare the data again,"
                " or raise --max_reject_fraction"
            )

    def _updates_done(self) -> int:
        return self.state.epoch * self.updates_per_epoch + self.state.update

    def _progress(self) -> tqdm:
        label = f"{self.stage} {self.state.epoch + 1}/{self.config.epochs}"
        done, total = self.state.update, self.updates_per_epoch
        return tqdm(
            initial=done, total=total, desc=label, unit="update", disable=not self.ranks.is_first, mininterval=2
        )


def attention_kernel(device: torch.device, is_bf16: bool) -> AbstractContextManager[None]:
    """What computes attention.

    On a CPU torch's fused kernel takes five times as long for gradients in bf16 as in float32 (torch 2.14 on
    AVX512-BF16); plain matrix products do not.
    """
    return sdpa_kernel(SDPBackend.MATH) if is_bf16 and device.type == "cpu" else nullcontext()


def parameter_groups(network: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(total: int, warmup_fraction: float) -> Any:
    """Factor of the learning rate after n of `total` updates: linear up to 1, then cosine down to 0."""
    rising = max(1, round(total * warmup_fraction))

    def factor(update: int) -> float:
        if update < rising:
            return (update + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - rising) / max(1, total - rising))))

    return factor
