"""A bundle's answers for a split, to measure in more than one way."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dataset.format import DatasetInfo
from model.bundle import Bundle, load_bundle
from model.cma_clip import Output
from train.data import Batch, ProductDataset
from train.evaluation import Predictions, Ranks, predict


def open_bundle(directory: Path, data: Path) -> Bundle:
    """Load a bundle onto the GPU, or the CPU where there is none.

    Raises:
        ValueError: a file of the bundle does not fit, or the data set has other tasks or labels.
    """
    bundle = load_bundle(directory)
    if DatasetInfo.read(data).tasks.label_set_hash != bundle.config.tasks.label_set_hash:
        raise ValueError(f"{data}: its tasks or labels are not those of the bundle {directory}")
    bundle.network.to("cuda" if torch.cuda.is_available() else "cpu")
    return bundle


def answers_for(bundle: Bundle, dataset: ProductDataset, batch_size: int) -> Predictions:
    """Classify a split; products that cannot be read are named on stderr and count nowhere."""
    device = next(bundle.network.parameters()).device

    def classify(batch: Batch) -> Output:
        return bundle.network(batch.input_ids_BT, batch.pixels_BHWC, batch.present_B2)

    answers = predict(classify, dataset, batch_size, Ranks(0, 1, device), workers=0)
    for problem in dict.fromkeys(answers.problems):
        print(f"not judged: {problem}", file=sys.stderr)
    return answers


def subset(answers: Predictions, products: Sequence[int]) -> Predictions:
    """The answers of these products, in this order."""
    index = torch.tensor(list(products), dtype=torch.long)
    logits, share, targets, present = (tensor[index] for tensor in answers[:4])
    return Predictions(logits, share, targets, present, [])
