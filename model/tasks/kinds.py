"""The kinds of tasks: loss, scores, decision and answer of each. No torch at import."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, ModelWrapValidatorHandler, model_validator

from cma_clip.settings import StrictModel
from model.acceptance import Acceptance
from model.tasks.answers import Answer, answer_of, number
from model.tasks.condition import Condition

if TYPE_CHECKING:
    from torch import Tensor

# B and N products; of one task: C columns of the logits, L labels, T thresholds

MISSING = -1.0  # target of every label of a task that the product has no label for
NOT_ASKED = -2.0  # the same of a task whose condition the product is known not to meet
TINY = np.finfo(np.float32).tiny
MISMATCH = "mismatch"  # the answer that tells whether title and image belong together
Criterion = Literal["precision", "f1", "few_false_alarms"]

Array = TypeVar("Array", np.ndarray, "Tensor")


def has_labels(targets_NL: Array) -> Array:
    """Bool [N], of one task's targets: products that have a label of it, or are known to have none of them."""
    return targets_NL[:, 0] >= 0


class Task(StrictModel):
    """One attribute to classify. Logits are the network's columns; targets and scores have one column a label.

    Attributes:
        name: column name in the data set and key of the answer.
        kind: key in KINDS; the subclass that a Task is read as.
        labels: label names; the order is that of targets and scores.
        thresholds: score from which an answer counts, 0 to 1; empty: `default_thresholds`.
        temperature: what logits are divided by, so that scores say how sure an answer is (train.temperature).
        acceptance: which answers are accepted; without it, those that reach `thresholds`.
        only_if: of which products it is asked; without it, of all.
        several_labels: whether a product may have more than one label; then it is a list on disk.
        least_labels: how many labels a task must have.
        fitted_for: what thresholds are fitted for (train.thresholds.CRITERIA).
        weighs_labels: whether the loss takes class weights.
        is_labelled: whether data sets have a column of its labels; else training makes its targets.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    kind: str
    labels: list[str]
    thresholds: list[float] = []
    temperature: float = Field(1.0, gt=0, exclude_if=lambda temperature: temperature == 1)
    acceptance: Acceptance | None = Field(None, exclude_if=lambda acceptance: acceptance is None)
    only_if: Condition | None = Field(None, exclude_if=lambda condition: condition is None)

    several_labels: ClassVar[bool]
    least_labels: ClassVar[int]
    fitted_for: ClassVar[Criterion]
    weighs_labels: ClassVar[bool]
    is_labelled: ClassVar[bool] = True

    @model_validator(mode="wrap")
    @classmethod
    def _as_its_kind(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Any:
        if cls is not Task or not isinstance(value, Mapping):
            return handler(value)
        if value.get("kind") not in KINDS:
            raise ValueError(f"kind {value.get('kind')!r}: expected one of {', '.join(KINDS)}")
        return KINDS[value["kind"]].model_validate(value)

    @model_validator(mode="after")
    def _labels_and_thresholds_fit(self) -> Self:
        if len(self.labels) < self.least_labels:
            kind = self.kind.replace("_", "-")
            raise ValueError(
                f"task {self.name}: a {kind} task needs {self.least_labels} or more labels, got {self.labels}"
            )
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"task {self.name}: labels repeat in {self.labels}")
        expected = len(self.default_thresholds)
        if self.thresholds and len(self.thresholds) != expected:
            raise ValueError(f"task {self.name}: {len(self.thresholds)} thresholds, expected {expected}")
        if self.acceptance and len(self.acceptance.thresholds) != len(self.labels):
            raise ValueError(
                f"task {self.name}: acceptance has {len(self.acceptance.thresholds)} thresholds for"
                f" {len(self.labels)} labels"
            )
        return self

    @property
    def columns(self) -> int:
        """How many of the logits are this task's."""
        return len(self.labels)

    @property
    @abstractmethod
    def default_thresholds(self) -> list[float]:
        """One number a threshold, for tasks that bring none."""

    @abstractmethod
    def loss(self, logits_BC: Tensor, targets_BL: Tensor, weights_L: Tensor) -> Tensor:
        """The loss of each product, float32 [B]; `weights_L` counts where `weighs_labels`."""

    @abstractmethod
    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        """Float32 [B, L] in 0..1, of float32 logits that are as sharp as they shall be."""

    @abstractmethod
    def answered(self, scores_NL: np.ndarray) -> np.ndarray:
        """The decision: bool [N, L], which labels a product is answered with."""

    @abstractmethod
    def claims(self, scores_NL: np.ndarray, targets_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What each threshold decides about, and whether it is right: float32 and bool, both [N, T]."""

    @abstractmethod
    def any_of(self, scores_NL: np.ndarray, places: Sequence[int]) -> np.ndarray:
        """Float32 [N]: how likely a product has one of these labels; it has where that is APPLIES_FROM or more."""

    def scores(self, logits_BC: np.ndarray) -> np.ndarray:
        """Float32 [B, L] in 0..1."""
        return self.probabilities(logits_BC.astype(np.float32) / np.float32(self.temperature))

    def accept_from(self) -> list[float]:
        """The thresholds with their defaults filled in."""
        return self.thresholds or self.default_thresholds

    def claimed(self, scores_NL: np.ndarray) -> np.ndarray:
        """The scores of labels that may be answered, whatever the thresholds; -1 those of the others."""
        return np.where(self.answered(scores_NL), scores_NL, np.float32(-1))

    def accepted_labels(self, scores_NL: np.ndarray) -> np.ndarray:
        """Bool [N, L]: the answered labels whose score suffices."""
        if self.acceptance:
            reached_NL = self.acceptance.reached(scores_NL)
        else:
            reached_NL = np.greater_equal(scores_NL, np.array(self.accept_from(), dtype=np.float32))
        return self.answered(scores_NL) & reached_NL

    def accepted(self, scores_NL: np.ndarray) -> np.ndarray:
        """Bool [N]: whether an answered label's score suffices."""
        return np.asarray(self.accepted_labels(scores_NL).any(axis=1))

    def answers(self, scores_BL: np.ndarray) -> list[Answer]:
        """What a caller reads of each product, as `answer_of`."""
        rows = zip(scores_BL, self.answered(scores_BL), self.accepted_labels(scores_BL), strict=True)
        return [answer_of(self, *row) for row in rows]

    def encode(self, row: Mapping[str, Any]) -> np.ndarray:
        """A row's labels as float32 [L]: 1 at the labels it has, 0 at the others, MISSING at all where it has null.

        Raises:
            ValueError: a label is not among the task's.
        """
        if row[self.name] is None:
            return np.full(len(self.labels), MISSING, dtype=np.float32)
        targets = np.zeros(len(self.labels), dtype=np.float32)
        for label in self.labels_in(row[self.name]):
            if label not in self.labels:
                raise ValueError(f"{row['id']}: label {label!r} is not among {self.name}'s {len(self.labels)} labels")
            targets[self.labels.index(label)] = 1
        return targets

    def labels_of(self, row: Mapping[str, Any]) -> list[str] | None:
        """A row's labels; None where it has null."""
        return None if row[self.name] is None else self.labels_in(row[self.name])

    @classmethod
    def labels_in(cls, stored: Any) -> list[str]:
        """The labels of a row's value as it stands on disk; none of null."""
        return [] if stored is None else stored if cls.several_labels else [stored]

    @classmethod
    def stored(cls, labels: list[str]) -> str | list[str] | None:
        """The value on disk for labels; where there may be several, none of them is one too."""
        return labels if cls.several_labels else next(iter(labels), None)


class SingleLabel(Task):
    """One label a product: softmax, the best label is answered and accepted from the task's one threshold on."""

    kind: Literal["single_label"] = "single_label"

    several_labels = False
    least_labels = 2
    fitted_for = "precision"
    weighs_labels = False

    @property
    def default_thresholds(self) -> list[float]:
        return [0.0]

    def loss(self, logits_BC: Tensor, targets_BL: Tensor, weights_L: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.cross_entropy(logits_BC, targets_BL, reduction="none")

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        exp = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)

    def answered(self, scores_NL: np.ndarray) -> np.ndarray:
        return np.arange(scores_NL.shape[1]) == scores_NL.argmax(axis=1)[:, None]

    def claims(self, scores_NL: np.ndarray, targets_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The answered label of each product."""
        answered_NL = self.answered(scores_NL)
        right_N = (answered_NL & targets_NL).any(axis=1)
        return scores_NL[answered_NL][:, None], right_N[:, None]

    def any_of(self, scores_NL: np.ndarray, places: Sequence[int]) -> np.ndarray:
        return scores_NL[:, places].sum(axis=1)


class MultiLabel(Task):
    """Any number of labels a product: sigmoid, each label is answered from its own threshold on."""

    kind: Literal["multi_label"] = "multi_label"

    several_labels = True
    least_labels = 1
    fitted_for: ClassVar[Criterion] = "f1"
    weighs_labels = True

    @property
    def default_thresholds(self) -> list[float]:
        return [0.5] * len(self.labels)

    def loss(self, logits_BC: Tensor, targets_BL: Tensor, weights_L: Tensor) -> Tensor:
        """Averaged over the labels; the term of a label that a product has counts its weight times."""
        import torch.nn.functional as F

        losses_BL = F.binary_cross_entropy_with_logits(logits_BC, targets_BL, reduction="none", pos_weight=weights_L)
        return losses_BL.mean(dim=1)

    def probabilities(self, logits_BC: np.ndarray) -> np.ndarray:
        return 0.5 * (1 + np.tanh(0.5 * logits_BC))

    def answered(self, scores_NL: np.ndarray) -> np.ndarray:
        return np.greater_equal(scores_NL, np.array(self.accept_from(), dtype=np.float32))

    def claims(self, scores_NL: np.ndarray, targets_NL: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every label of every product."""
        return scores_NL, targets_NL

    def claimed(self, scores_NL: np.ndarray) -> np.ndarray:
        return scores_NL

    def any_of(self, scores_NL: np.ndarray, places: Sequence[int]) -> np.ndarray:
        """The highest score, on a scale where the one that a label is answered from is 0.5."""
        scores_NL, from_L = scores_NL[:, places], np.array(self.accept_from(), dtype=np.float32)[places]
        below_NL = scores_NL / np.maximum(from_L, TINY)
        beyond_NL = 1 + np.maximum(scores_NL - from_L, 0) / np.maximum(1 - from_L, TINY)
        return np.float32(0.5) * np.where(scores_NL < from_L, below_NL, beyond_NL).max(axis=1)


class Mismatch(MultiLabel):
    """Whether title and image do not belong together: one column, which training makes the targets of.

    Attributes:
        refuses: where it is accepted, no other answer for the product is.
    """

    name: str = MISMATCH
    kind: Literal["mismatch"] = "mismatch"  # type: ignore[assignment]
    labels: list[str] = [MISMATCH]
    refuses: bool = False

    fitted_for = "few_false_alarms"
    weighs_labels = False
    is_labelled = False

    def encode(self, row: Mapping[str, Any]) -> np.ndarray:
        return np.full(len(self.labels), MISSING, dtype=np.float32)

    def answers(self, scores_BL: np.ndarray) -> list[Answer]:
        """As those of other tasks; `label` is `mismatch` or `match`, `score` that of a mismatch, whichever it is."""
        result = []
        for answer, scores in zip(super().answers(scores_BL), scores_BL, strict=True):
            answer.pop("refused", None)
            result.append({"label": MISMATCH if answer["accepted"] else "match", "score": number(scores[0])} | answer)
        return result


KINDS: dict[str, type[Task]] = {"single_label": SingleLabel, "multi_label": MultiLabel, "mismatch": Mismatch}


def labelled_kinds() -> list[str]:
    """The kinds that a column of a data set may have."""
    return [name for name, kind in KINDS.items() if kind.is_labelled]
