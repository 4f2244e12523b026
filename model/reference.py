"""How a bundle answered its validation products, for the server to hold its answers against. No torch at import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field

from cma_clip.settings import StrictModel

Kind = Literal["labels", "scores", "text_share"]
WATCHED: tuple[Kind, ...] = get_args(Kind)
BINS = 10
BIN_NAMES = tuple(f"{place / BINS:.1f}" for place in range(BINS))  # each by its lower edge
MOST_LABELS = 200  # of a task: each is a time series in Prometheus for every server
NONE, OTHER, INAPPLICABLE = "(none)", "(other)", "(not applicable)"

Histogram = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=BINS, max_length=BINS)]


class TaskReference(StrictModel):
    """The answers of one task.

    Attributes:
        labels: label -> products answered with it; NONE: those with no label, of a task that may give none;
            INAPPLICABLE: those that the task is not asked of. Of a task with more than MOST_LABELS the most frequent
            ones, and OTHER for all others together.
        scores: products that it is asked of by their best score, in BINS of equal width from 0 to 1.
        text_share: products by λ, in the same bins.
    """

    labels: dict[str, Annotated[int, Field(ge=0)]]
    scores: Histogram
    text_share: Histogram

    def counts(self, kind: Kind) -> dict[str, int]:
        """Products by label, or by the lower edge of their bin."""
        return self.labels if kind == "labels" else dict(zip(BIN_NAMES, getattr(self, kind), strict=True))

    def shown(self, label: str) -> str:
        """The label that an answer is counted under."""
        return label if label in self.labels else OTHER


class Reference(StrictModel):
    """The answers to so many validation products, with titles and images as they belong together."""

    products: int = Field(ge=0)
    tasks: dict[str, TaskReference]

    def check(self, labels: Mapping[str, Sequence[str]]) -> None:
        """Hold it against the labels of each task.

        Raises:
            ValueError: it counts other tasks, or labels that they have not.
        """
        if self.tasks.keys() != labels.keys():
            raise ValueError(f"reference counts {', '.join(self.tasks)}, the tasks are {', '.join(labels)}")
        for name, task in self.tasks.items():
            if unknown := task.labels.keys() - {*labels[name], NONE, OTHER, INAPPLICABLE}:
                raise ValueError(f"reference: task {name} has no label {', '.join(sorted(unknown))}")


def bin_of(value: float) -> int:
    """The bin of a score or a λ; 1.0, and what float32 makes a little more of it, is in the last one."""
    return min(int(value * BINS), BINS - 1)


def histogram(values: Iterable[float]) -> list[int]:
    """How many are in each bin."""
    counted = Counter(map(bin_of, values))
    return [counted[place] for place in range(BINS)]


def grouped(labels: Mapping[str, int]) -> dict[str, int]:
    """The counts of MOST_LABELS at most, in the order given: the most frequent, and OTHER where some are left out."""
    if len(labels) <= MOST_LABELS:
        return dict(labels)
    kept = set(sorted(labels, key=lambda label: -labels[label])[: MOST_LABELS - 1])
    shown = {label: count for label, count in labels.items() if label in kept}
    return shown | {OTHER: sum(labels.values()) - sum(shown.values())}
