"""How long a catalogue of a size is trained: the rules by which `cma-clip fit` fills in the default recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from model.networks import StageName

RECIPE = Path(__file__).parents[1] / "recipes/robust.yaml"
LEAST = 100  # products: of fewer, validation has not enough to choose weights by
STAGES: tuple[StageName, ...] = ("contrastive", "warmup", "end_to_end", "tuning")
# Of a stage's epoch, beside one of end_to_end: measured on two cores of an EPYC without AVX-512.
COST: Mapping[StageName, float] = {"contrastive": 0.5, "warmup": 0.7, "end_to_end": 1.0, "tuning": 0.6}

Epochs = dict[StageName, int]


class Rule(NamedTuple):
    """Epochs for up to so many products to train on; contrastive runs only where a plan has it."""

    products: float
    contrastive: int
    warmup: int
    end_to_end: int
    tuning: int


# The first was measured on 1,000 to 4,000 products (RESULTS.md); the others are set by how many an epoch sees.
RULES = (
    Rule(10_000, 8, 2, 8, 1),
    Rule(40_000, 3, 1, 3, 1),
    Rule(math.inf, 1, 1, 2, 1),
)


def epochs_for(products: int) -> Epochs:
    """Epochs by the rule of the size."""
    rule = next(rule for rule in RULES if products <= rule.products)
    return {stage: getattr(rule, stage) for stage in STAGES}


def training_seconds(epochs: Epochs, seconds_per_epoch: float, start_s: float) -> float:
    """Args:
    seconds_per_epoch: of end_to_end.
    start_s: what each stage takes before its first update and after its last.
    """
    return sum(start_s + count * COST[stage] * seconds_per_epoch for stage, count in epochs.items())


def within(epochs: Epochs, seconds_per_epoch: float, start_s: float, budget_s: float) -> Epochs:
    """Fewer epochs, of all stages alike, that fit into a budget; at least one of each."""
    own_s = training_seconds(epochs, seconds_per_epoch, 0)
    share = min(1.0, max(0.0, budget_s - start_s * len(epochs)) / own_s)
    return {stage: max(1, math.floor(count * share)) for stage, count in epochs.items()}
