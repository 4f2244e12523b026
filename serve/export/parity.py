"""How far an engine's answers are from torch's: over batch sizes, title lengths and missing modalities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset.table import ParquetSource
from model.bundle import Bundle
from model.config import BundleConfig
from model.tasks import TaskSet
from serve.engines import Run

# B batch, T token ids, H and W image size, C labels of all tasks, K tasks, L labels of one task

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray]
BATCHES = (1, 2, 7)
# Largest accepted difference of a probability or of λ, by the precision of the matrix products: in between is what a
# product on the edge of two labels may move, far beyond is a wrong graph. In 8 bits single products go astray, so
# there it is how many keep their decision that counts.
LIMITS = {"f32": 1e-3, "f16": 2e-2, "bf16": 0.15, "int8": 1.0}
LEAST_AGREEMENT = {"int8": 0.98}
# How far torch's scores may stand from where a decision turns, for a turned decision to be a near tie.
NEAR = 0.05


def random_inputs(config: BundleConfig, batch: int, length: int, seed: int) -> Inputs:
    """Token ids whose longest title has `length` ids, pixels, and every mix of present modalities."""
    rng = np.random.default_rng(seed)
    size, vocab = config.preprocess.image_size, config.preprocess.vocab_size
    input_ids = np.zeros((batch, length), dtype=np.int32)
    for row, ids in enumerate(input_ids):
        end = length - 1 if row == 0 else int(rng.integers(1, length))
        ids[0], ids[end] = vocab - 2, vocab - 1
        ids[1:end] = rng.integers(0, vocab - 2, end - 1)
    pixels = rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
    mixes = np.array([[True, True], [True, False], [False, True]])
    return input_ids, pixels, mixes[np.arange(batch) % 3 if batch > 1 else [seed % 3]]


def random_cases(config: BundleConfig, lengths: Sequence[int] = ()) -> Iterator[Inputs]:
    """Every batch size with every title length (by default 2, 3 and the bundle's own)."""
    cases = [(batch, length) for batch in BATCHES for length in lengths or (2, 3, *config.preprocess.title_lengths)]
    return (random_inputs(config, batch, length, seed) for seed, (batch, length) in enumerate(cases))


def product_cases(bundle: Bundle, data: Path, split: str, products: int, batch: int = 8) -> Iterator[Inputs]:
    """The first products of a data set's split, ready for the network.

    Raises:
        ValueError: there is no such split, or a shard or an image in it cannot be read.
    """
    rows: Iterator[Any] = ParquetSource(data / f"split={split}").rows(["title", "image"])
    while some := list(itertools.islice(rows, min(batch, products))):
        products -= len(some)
        yield bundle.prepare([(row.cells["title"], row.cells["image"] or b"") for row in some])


def compare(bundle: Bundle, run: Run, precision: str, cases: Iterator[Inputs] | None = None) -> dict[str, Any]:
    """Compare an engine with torch in float32, by what a user sees: which labels are answered, and `accepted`.

    A decision that differs is a near tie where torch's own scores, moved by no more than NEAR and no more than the
    limit, decide as the engine does; else it is a flip. Near ties are no faults and count nowhere.

    Args:
        run: the engine.
        precision: of its matrix products; sets the limit.
        cases: inputs to compare on; by default random ones.
    Returns:
        passed, limit; cases, products; agreement (the share of products without a flip, in the task where it is
        smallest); probability_difference and text_share_difference (largest absolute ones); flips and near_ties
        (products, summed over the tasks); tasks: the same, task by task. Passed are differences within the limit,
        and no flip; in int8 an agreement of LEAST_AGREEMENT.
    """
    limit = LIMITS[precision]
    tasks = {task.name: _Drift() for task in bundle.config.tasks}
    count = products = 0
    for inputs in cases or random_cases(bundle.config):
        with torch.inference_mode():
            expected, expected_share = (o.numpy() for o in bundle.network(*map(torch.from_numpy, inputs)))
        logits, share = run(*inputs)
        _add(tasks, bundle.config.tasks, (expected, logits), (expected_share, share), min(limit, NEAR))
        count, products = count + 1, products + len(logits)
    drifts = list(tasks.values())
    total = {
        "agreement": 1 - max(drift.flips for drift in drifts) / products,
        "probability_difference": max(drift.probability for drift in drifts),
        "text_share_difference": max(drift.text_share for drift in drifts),
        "flips": sum(drift.flips for drift in drifts),
        "near_ties": sum(drift.near_ties for drift in drifts),
    }
    largest = max(total["probability_difference"], total["text_share_difference"])
    passed = bool(total["agreement"] >= LEAST_AGREEMENT.get(precision, 1) and largest <= limit)
    by_task = {name: vars(drift) for name, drift in tasks.items()}
    return {"passed": passed, "limit": limit, "cases": count, "products": products, **total, "tasks": by_task}


class _Drift:
    def __init__(self) -> None:
        self.probability = self.text_share = 0.0
        self.flips = self.near_ties = 0


def _add(
    drifts: dict[str, _Drift],
    tasks: TaskSet,
    logits: tuple[np.ndarray, np.ndarray],
    shares: tuple[np.ndarray, np.ndarray],
    near: float,
) -> None:
    """Add one batch to each task's drift; the first of each pair is torch's."""
    torchs_BL, engines_BL = map(tasks.scores, logits)
    moved_BL = engines_BL.clip(torchs_BL - near, torchs_BL + near)
    decisions = zip(*(_decisions(tasks, scores_BL) for scores_BL in (torchs_BL, moved_BL, engines_BL)), strict=True)
    columns = zip(tasks.split(torchs_BL), tasks.split(engines_BL), decisions, strict=True)
    for index, ((task, torchs), (_, engines), (wanted, nearly, said)) in enumerate(columns):
        drift = drifts[task.name]
        # max() of Python drops NaN; a comparison that NaN cannot pass keeps it.
        drift.probability = float(np.max([drift.probability, np.abs(torchs - engines).max()]))
        drift.text_share = float(np.max([drift.text_share, np.abs(shares[0] - shares[1])[:, index].max()]))
        differs_B = (wanted != said).any(axis=1)
        flipped_B = differs_B & (nearly != said).any(axis=1)
        drift.flips += int(flipped_B.sum())
        drift.near_ties += int((differs_B & ~flipped_B).sum())


def _decisions(tasks: TaskSet, scores_BL: np.ndarray) -> list[np.ndarray]:
    """Of each task bool [B, 2 L]: the answered labels, and those that are accepted; none where it does not apply."""
    columns = zip(tasks.split(scores_BL), tasks.applies(scores_BL).T, strict=True)
    return [
        np.column_stack([task.answered(own_BL), task.accepted_labels(own_BL)]) & applies_B[:, None]
        for (task, own_BL), applies_B in columns
    ]
