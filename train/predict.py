"""A network's answers for a whole split, gathered from all ranks, and what they are worth."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dataset.format import DatasetInfo
from model.bundle import Bundle, load_bundle
from model.cma_clip import Output
from model.tasks import TaskSet
from train.data import Batch, ProductDataset
from train.losses import classification_losses, task_weights
from train.metrics import task_metrics
from train.ranks import Ranks
from train.sampler import OrderedBatches

LABELS_SHOWN = 5

# N products, C labels of all tasks, K tasks


class Predictions(NamedTuple):
    """Answers in the order of the split, on the CPU, the same on all ranks.

    logits_NC and text_share_NK float32; targets_NC as in train.data.Batch; present_N2 bool.
    problems: this rank's products that could not be read; their targets are missing.
    unreadable: the places of those of all ranks.
    """

    logits_NC: Tensor
    text_share_NK: Tensor
    targets_NC: Tensor
    present_N2: Tensor
    problems: list[str]
    unreadable: tuple[int, ...] = ()

    def of(self, products: Sequence[int]) -> Predictions:
        """The answers of these products, in this order."""
        index = torch.tensor(list(products), dtype=torch.long)
        logits, share, targets, present = (tensor[index] for tensor in self[:4])
        return Predictions(logits, share, targets, present, [])

    def labelled(self, tasks: TaskSet) -> Predictions:
        """The answers to those of the tasks that data sets have labels of."""
        column_C, label_L = (~torch.from_numpy(own) for own in (tasks.is_mismatch_C, tasks.is_mismatch_L))
        share = self.text_share_NK[:, [task.is_labelled for task in tasks]]
        logits, targets = self.logits_NC[:, column_C], self.targets_NC[:, label_L]
        return self._replace(logits_NC=logits, text_share_NK=share, targets_NC=targets)


@torch.no_grad()
def predict(
    classify: Callable[[Batch], Output],
    dataset: ProductDataset,
    batch_size: int,
    ranks: Ranks,
    workers: int,
    look: Callable[[], None] = lambda: None,
) -> Predictions:
    """Classify every product of a split once; `classify` must be in evaluation mode.

    `look` is called after each batch, on every rank alike; what it raises ends the work.
    """
    columns: list[list[Tensor]] = [[], [], [], [], []]
    problems: list[str] = []
    for batch in _batches(dataset, len(dataset), batch_size, ranks, workers):
        output = classify(batch)
        answered = (output.logits_BC.float(), output.text_share_BK.float())
        given = (batch.targets_BC, batch.present_B2.float(), batch.readable_B.float())
        for column, tensor in zip(columns, (*answered, *given), strict=True):
            column.append(tensor)
        problems += batch.problems
        look()
    # The ranks' batches [steps, batch, ...] are interleaved into the split's order; what was repeated is dropped.
    gathered = (torch.stack(ranks.gather(torch.stack(column)), dim=1) for column in columns)
    logits, share, targets, present, readable = (parts.flatten(0, 2)[: len(dataset)].cpu() for parts in gathered)
    unreadable = tuple(torch.nonzero(readable == 0).flatten().tolist())
    return Predictions(logits, share, targets, present.bool(), problems, unreadable)


def loss_and_metrics(
    predictions: Predictions,
    tasks: TaskSet,
    positive_weight_C: Tensor | None = None,
    multi_label_weight: float = 1.0,
) -> tuple[float, dict[str, Any]]:
    """The loss, summed over the labelled tasks' means over their products, and the metrics of each task.

    Args:
        tasks: with the thresholds that multi-label answers are counted by.
        positive_weight_C, multi_label_weight: those of training, for the loss that training lowers.

    Raises:
        ValueError: no product has any label.
    """
    sums_K, counts_K = classification_losses(predictions.logits_NC, predictions.targets_NC, tasks, positive_weight_C)
    if not counts_K.any():
        raise ValueError("no product of this split has a label that could be read")
    metrics = task_metrics(predictions.logits_NC, predictions.text_share_NK, predictions.targets_NC, tasks)
    is_labelled_K = torch.tensor([task.is_labelled for task in tasks])
    means_K = task_weights(tasks, multi_label_weight) * sums_K / counts_K.clamp(min=1)
    return means_K[is_labelled_K].sum().item(), metrics


@torch.no_grad()
def mean_loss(
    objective: Callable[[Sequence[Batch]], Tensor],
    dataset: ProductDataset,
    micro_batch_size: int,
    accumulation: int,
    ranks: Ranks,
    workers: int,
    look: Callable[[], None] = lambda: None,
) -> float:
    """An objective's loss, averaged over the full batches of a split, or over all of it where it does not fill one.

    Args:
        objective: of so many micro-batches together.
        look: as in `predict`.
    """
    step = micro_batch_size * ranks.world_size
    whole = len(dataset) - len(dataset) % (step * accumulation) or len(dataset)
    losses, micro_batches = [], []
    batches = _batches(dataset, whole, micro_batch_size, ranks, workers)
    for place, batch in enumerate(batches):
        product_B = torch.arange(micro_batch_size) + place * step + ranks.rank * micro_batch_size
        batch.readable_B &= (product_B < whole).to(batch.readable_B.device)  # else it is a repetition
        micro_batches.append(batch)
        if len(micro_batches) == accumulation:
            losses.append(objective(micro_batches).float())
            micro_batches = []
        look()
    if micro_batches:
        losses.append(objective(micro_batches).float())
    return ranks.mean(torch.stack(losses).mean()).item()


def _batches(dataset: ProductDataset, rows: int, batch_size: int, ranks: Ranks, workers: int) -> Iterator[Batch]:
    sampler = OrderedBatches(rows, batch_size, rank=ranks.rank, world_size=ranks.world_size)
    with closing(dataset.batches(sampler, workers)) as batches:
        bar = tqdm(batches, "predicting", len(sampler), leave=False, disable=not ranks.is_first, mininterval=2, delay=2)
        for batch in bar:
            yield batch.to(ranks.device)


def open_bundle(directory: Path, data: Path) -> Bundle:
    """Load a bundle onto the GPU, or the CPU where there is none.

    Raises:
        ValueError: a file of the bundle does not fit, or the data set has not its tasks and labels, other tasks or not.
    """
    bundle = load_bundle(directory)
    if difference := _difference(DatasetInfo.read(data).tasks, bundle.config.tasks.labelled):
        raise ValueError(
            f"{data}: its tasks or labels are not those of the bundle {directory}:"
            f" {difference}; --labels-of {directory} of train.prepare catalog prepares a"
            " table for it"
        )
    bundle.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return bundle


def _difference(theirs: TaskSet, ours: TaskSet) -> str:
    """What a data set lacks that a bundle has, or has otherwise, by the first such task; empty where nothing is."""
    names = [[task.name for task in tasks] for tasks in (theirs, ours)]
    if not {*names[0]} >= {*names[1]}:
        return f"tasks {', '.join(names[0])} in place of {', '.join(names[1])}"
    pairs = ((theirs.by_name[own.name], own) for own in ours)
    other = [pair for pair in pairs if (pair[0].kind, pair[0].labels) != (pair[1].kind, pair[1].labels)]
    if not other:
        return ""
    task, own = other[0]
    if task.kind != own.kind:
        return f"{task.name} is {task.kind} in place of {own.kind}"
    more, fewer = sorted({*task.labels} - {*own.labels}), sorted({*own.labels} - {*task.labels})
    parts = [f"{word} {_some(labels)}" for word, labels in (("has", more), ("lacks", fewer)) if labels]
    return f"{task.name} " + (" and ".join(parts) or "has its labels in another order")


def _some(labels: list[str]) -> str:
    return ", ".join(map(repr, labels[:LABELS_SHOWN])) + (" and more" if len(labels) > LABELS_SHOWN else "")


def answers_for(bundle: Bundle, dataset: ProductDataset, batch_size: int) -> Predictions:
    """Classify a split; products that cannot be read are named on stderr and count nowhere."""
    device = next(bundle.network.parameters()).device

    def classify(batch: Batch) -> Output:
        return bundle.network(batch.input_ids_BT, batch.pixels_BHWC, batch.present_B2)

    answers = predict(classify, dataset, batch_size, Ranks(0, 1, device), workers=0)
    for problem in dict.fromkeys(answers.problems):
        print(f"not judged: {problem}", file=sys.stderr)
    return answers
