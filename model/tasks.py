"""What a network answers, as objects: one class a kind of task, and the set of a bundle's tasks. No torch at import.

All that depends on the kind is asked from the task; who else needs to know goes through `TaskSet`, which alone does
arithmetic on offsets. A new kind is a subclass of Task (or of the kind that it resembles) with a row in KINDS, and its
tests; docs/extending.md writes one down.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, GetCoreSchemaHandler, ModelWrapValidatorHandler, SerializeAsAny, model_validator
from pydantic_core import CoreSchema, core_schema

from cma_clip.settings import StrictModel
from model.acceptance import Acceptance

if TYPE_CHECKING:
    from torch import Tensor

# B and N products, K tasks; of one task or, in a TaskSet, of all tasks side by side: C columns of the logits, L labels,
# T thresholds

MISSING = -1.0  # target of every label of a task that the product has no label for
TOP_K = 3
MISMATCH = "mismatch"  # the answer that tells whether title and image belong together
Criterion = Literal["precision", "f1", "few_false_alarms"]
MODALITY = {(True, True): "title_and_image", (True, False): "title_only", (False, True): "image_only"}

Array = TypeVar("Array", np.ndarray, "Tensor")
Answer = dict[str, Any]


class Task(StrictModel):
    """One attribute to classify. Logits are the network's columns; targets and scores have one column a label.

    Attributes:
        name: column name in the data set and key of the answer.
        kind: key in KINDS; the subclass that a Task is read as.
        labels: label names; the order is that of targets and scores.
        thresholds: score from which an answer counts, 0 to 1; empty: `default_thresholds`.
        temperature: what logits are divided by, so that scores say how sure an answer is (train.temperature).
        acceptance: which answers are accepted; without it, those that reach `thresholds`.
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
        """What a caller reads of each product: labels with their scores, best first, accepted, and the TOP_K labels.

        Where a product has one label only, also as `label` and `score`; where it may have several and a promise was
        made, `accepted_labels` are those that keep it. An answer that is not accepted says why in `refused`.
        """
        result = []
        for row in zip(scores_BL, self.answered(scores_BL), self.accepted_labels(scores_BL), strict=True):
            scores, answered, accepted = row
            order = np.argsort(-scores, kind="stable")
            chosen = [i for i in order if answered[i]]
            labels, numbers = [self.labels[i] for i in chosen], [_number(scores[i]) for i in chosen]
            answer: Answer = {} if self.several_labels else {"label": labels[0], "score": numbers[0]}
            answer |= {"labels": labels, "scores": numbers, "accepted": bool(accepted.any())}
            if self.several_labels and self.acceptance:
                answer["accepted_labels"] = [self.labels[i] for i in chosen if accepted[i]]
            if not accepted.any():
                answer["refused"] = self.acceptance.why_not(answered) if self.acceptance else "score"
            answer["top"] = [[self.labels[i], _number(scores[i])] for i in order[:TOP_K]]
            result.append(answer)
        return result

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

    @classmethod
    def labels_in(cls, stored: Any) -> list[str]:
        """The labels of a row's value as it stands on disk; none of null."""
        return [] if stored is None else stored if cls.several_labels else [stored]

    @classmethod
    def stored(cls, labels: list[str]) -> str | list[str]:
        """The value on disk for labels; no labels are one only where there may be several."""
        return labels if cls.several_labels else labels[0]


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
            result.append({"label": MISMATCH if answer["accepted"] else "match", "score": _number(scores[0])} | answer)
        return result


KINDS: dict[str, type[Task]] = {"single_label": SingleLabel, "multi_label": MultiLabel, "mismatch": Mismatch}


def labelled_kinds() -> list[str]:
    """The kinds that a column of a data set may have."""
    return [name for name, kind in KINDS.items() if kind.is_labelled]


class TaskSet(tuple[Task, ...]):
    """The tasks of a network in the order of its logits; a list in JSON, and a type that pydantic models may hold.

    Raises:
        ValueError: no task, or two of one name.
    """

    def __new__(cls, tasks: Iterable[Task]) -> Self:
        self = super().__new__(cls, tasks)
        names = [task.name for task in self]
        if not names:
            raise ValueError("no tasks")
        if len(set(names)) != len(names):
            raise ValueError(f"task names repeat in {names}")
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, handler(tuple[SerializeAsAny[Task], ...]))

    @property
    def labelled(self) -> TaskSet:
        """Those that data sets have labels of."""
        return TaskSet(task for task in self if task.is_labelled)

    @property
    def is_mismatch_C(self) -> np.ndarray:
        """Bool [C]: the columns of the logits that are a Mismatch's."""
        return np.concatenate([np.full(task.columns, isinstance(task, Mismatch)) for task in self])

    @property
    def is_mismatch_L(self) -> np.ndarray:
        """Bool [L]: the same of targets and scores."""
        return np.concatenate([np.full(len(task.labels), isinstance(task, Mismatch)) for task in self])

    def with_mismatch(self) -> TaskSet:
        """These, and behind them what tells a title from another product's.

        Raises:
            ValueError: a task of that name is there.
        """
        if any(task.name == MISMATCH for task in self):
            raise ValueError(f"a task of the data set is called {MISMATCH}: rename it, or set --mismatch false")
        return TaskSet((*self, Mismatch()))

    def refusing(self) -> TaskSet:
        """These, where a mismatch that is accepted refuses the other answers.

        Raises:
            ValueError: none of them tells mismatches.
        """
        if not self.is_mismatch_C.any():
            raise ValueError("the network does not tell mismatches: train it with --mismatch true, or refuse none")
        return TaskSet(
            task.model_copy(update={"refuses": True}) if isinstance(task, Mismatch) else task for task in self
        )

    @property
    def num_columns(self) -> int:
        """Width of the logits."""
        return sum(task.columns for task in self)

    @property
    def label_set_hash(self) -> str:
        """12 hex digits that change when a task, a label or their order does; thresholds do not count."""
        parts = [[task.name, task.kind, task.labels] for task in self]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    def split_logits(self, logits_BC: Array) -> Iterator[tuple[Task, Array]]:
        """Each task with its own columns of the logits, along the last dimension."""
        return self._split(logits_BC, [task.columns for task in self])

    def split(self, values_BL: Array) -> Iterator[tuple[Task, Array]]:
        """Each task with its own labels of targets, scores or weights, along the last dimension."""
        return self._split(values_BL, [len(task.labels) for task in self])

    def _split(self, values: Array, widths: Sequence[int]) -> Iterator[tuple[Task, Array]]:
        if values.shape[-1] != sum(widths):
            raise ValueError(f"{values.shape[-1]} columns, the tasks need {sum(widths)}")
        start = 0
        for task, width in zip(self, widths, strict=True):
            yield task, values[..., start : start + width]
            start += width

    def encode(self, row: Mapping[str, Any]) -> np.ndarray:
        """A row's labels as targets, float32 [L].

        Raises:
            ValueError: a label is not among its task's.
        """
        return np.concatenate([task.encode(row) for task in self])

    def scores(self, logits_BC: np.ndarray) -> np.ndarray:
        """Float32 [B, L] in 0..1."""
        return np.concatenate([task.scores(logits) for task, logits in self.split_logits(logits_BC)], axis=1)

    def predictions(
        self, scores_BL: np.ndarray, text_share_BK: np.ndarray, present_B2: np.ndarray
    ) -> list[dict[str, Answer]]:
        """What is said of each product, ready for JSON: task name -> answer, text share and modality.

        Args:
            scores_BL: from `scores`.
            text_share_BK: λ per task.
            present_B2: whether there was a title, an image.
        """
        modalities = [MODALITY[bool(title), bool(image)] for title, image in present_B2]
        products: list[dict[str, Answer]] = [{} for _ in scores_BL]
        for (task, own_BL), share_B in zip(self.split(scores_BL), text_share_BK.T, strict=True):
            parts = zip(products, task.answers(own_BL), share_B, modalities, strict=True)
            for product, answer, share, modality in parts:
                product[task.name] = answer | {"text_share": _number(share), "modality": modality}
        for task in self:
            if isinstance(task, Mismatch) and task.refuses:
                _refuse_others(products, task.name)
        return products


def _refuse_others(products: Iterable[dict[str, Answer]], name: str) -> None:
    """Where the answer of that name is accepted, the others are not, and say why."""
    for product in products:
        if product[name]["accepted"]:
            others = (answer for other, answer in product.items() if other != name)
            for answer in others:
                answer |= {"accepted": False, "refused": name}
                if "accepted_labels" in answer:
                    answer["accepted_labels"] = []


def _number(value: np.floating) -> float:
    """Six decimals: what float32 can carry, and a short JSON."""
    return round(float(value), 6)
