"""From which score on an answer is taken without a person's look, and why; data of a bundle. No torch at import."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from cma_clip.settings import StrictModel

# N products, L labels of one task

Share = Annotated[float, Field(gt=0, lt=1)]
Score = Annotated[float, Field(ge=0, le=1)]


class Rule(StrictModel):
    """What accepted answers have to keep: a promise, or where two costs are given the least of them.

    Attributes:
        precision: share of the accepted answers that is right.
        confidence: how often the promise holds, over draws of the products that it was decided by.
        cost_wrong, cost_review: of an accepted answer that is wrong, and of one that is not accepted; in any unit.
        per_label: labels that are answered often enough have a threshold of their own (train.acceptance.ENOUGH).
    """

    precision: Share = 0.9
    confidence: Share = 0.95
    cost_wrong: float | None = Field(None, gt=0)
    cost_review: float | None = Field(None, gt=0)
    per_label: bool = False

    @property
    def promises(self) -> bool:
        """Whether it is a promise, and not costs."""
        return self.cost_wrong is None

    @model_validator(mode="after")
    def _costs_come_together(self) -> Rule:
        if (self.cost_wrong is None) != (self.cost_review is None):
            raise ValueError("cost_wrong and cost_review: give both or none")
        if self.cost_wrong is not None and self.cost_review is not None and self.cost_wrong <= self.cost_review:
            costs = f"cost_wrong {self.cost_wrong:g}, cost_review {self.cost_review:g}"
            raise ValueError(f"{costs}: where a wrong answer costs no more than a look, nobody needs to look")
        return self


class Acceptance(StrictModel):
    """Which answers of one task are accepted, and what that was decided by (train.acceptance).

    Attributes:
        rule: what they have to keep.
        thresholds: a number a label: the score from which on it is accepted; null: none is.
        products: labelled ones that it was decided by, and those answered though they are known not to be asked.
        accepted, right: of these, those of which a label is accepted, and those of which no accepted one is wrong.
        needed: products that would do, were they like these; null where no number would, or these do.
    """

    rule: Rule
    thresholds: list[Score | None]
    products: int
    accepted: int = 0
    right: int = 0
    needed: int | None = None

    def reached(self, scores_NL: np.ndarray) -> np.ndarray:
        """Bool [N, L]: whether a score suffices."""
        least_L = np.array([np.inf if least is None else least for least in self.thresholds], dtype=np.float32)
        return np.greater_equal(scores_NL, least_L)

    def why_not(self, answered_L: np.ndarray) -> str:
        """Of an answer that is not accepted: `no promise` where no score of its labels would do, else `score`."""
        answered = [self.thresholds[label] for label in np.flatnonzero(answered_L)]
        hopeless = self.rule.promises and bool(answered) and all(least is None for least in answered)
        return "no promise" if hopeless else "score"
