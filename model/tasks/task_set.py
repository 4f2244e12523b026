"""The tasks of a bundle together: their columns, their conditions, what is said of a product. No torch at import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from pydantic import GetCoreSchemaHandler, SerializeAsAny
from pydantic_core import CoreSchema, core_schema

from model.tasks.answers import Answer, not_applicable, number, refuse_others
from model.tasks.condition import APPLIES_FROM, Condition, check_conditions, conditions_of
from model.tasks.kinds import MISMATCH, NOT_ASKED, Array, Mismatch, Task

# B products, K tasks; of all tasks side by side: C columns of the logits, L labels

MODALITY = {(True, True): "title_and_image", (True, False): "title_only", (False, True): "image_only"}


class TaskSet(tuple[Task, ...]):
    """The tasks of a network in the order of its logits; a list in JSON, and a type that pydantic models may hold.

    Raises:
        ValueError: no task, two of one name, or a condition that does not fit the others.
    """

    def __new__(cls, tasks: Iterable[Task]) -> Self:
        self = super().__new__(cls, tasks)
        names = [task.name for task in self]
        if not names:
            raise ValueError("no tasks")
        if len(set(names)) != len(names):
            raise ValueError(f"task names repeat in {names}")
        check_conditions(self.by_name)
        return self

    @classmethod
    def __get_pydantic_core_schema__(cls, _: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls, handler(tuple[SerializeAsAny[Task], ...]))

    @property
    def by_name(self) -> dict[str, Task]:
        return {task.name: task for task in self}

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
    def longest_chain(self) -> int:
        """The most conditions that have to hold for one task."""
        by_name = self.by_name
        return max(len(conditions_of(task, by_name)) for task in self)

    def with_conditions_of(self, others: TaskSet) -> TaskSet:
        """These, each asked of the products that the one of its name is asked of, where that has a condition."""
        given = {task.name: task.only_if for task in others}
        return TaskSet(task.model_copy(update={"only_if": given.get(task.name) or task.only_if}) for task in self)

    @property
    def num_columns(self) -> int:
        """Width of the logits."""
        return sum(task.columns for task in self)

    @property
    def label_set_hash(self) -> str:
        """12 hex digits that change with a task, a label or their order; not with thresholds or conditions."""
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
        """A row's labels as targets, float32 [L]; NOT_ASKED at all of a task that is not asked of it.

        Raises:
            ValueError: a label is not among its task's.
        """
        unasked = self.not_asked(self.labels_of(row))
        return np.concatenate(
            [
                np.full(len(task.labels), NOT_ASKED, dtype=np.float32) if task.name in unasked else task.encode(row)
                for task in self
            ]
        )

    def labels_of(self, row: Mapping[str, Any]) -> dict[str, list[str] | None]:
        """A row's labels by task; None where it has null."""
        return {task.name: task.labels_of(row) for task in self if task.is_labelled}

    def not_asked(self, labels: Mapping[str, Sequence[str] | None]) -> set[str]:
        """The tasks that are known not to be asked of a product with these labels, as `labels_of` has them or some."""
        by_name = self.by_name

        def fails(condition: Condition) -> bool:
            return condition.fails(labels.get(condition.task))

        return {task.name for task in self if any(map(fails, conditions_of(task, by_name)))}

    def asked_only(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's values by task, null those of tasks that are known not to be asked of it."""
        unasked = self.not_asked(self.labels_of(row))
        return {task.name: None if task.name in unasked else row[task.name] for task in self if task.is_labelled}

    def applicable(self, scores_BL: np.ndarray) -> np.ndarray:
        """How likely each task is to be asked of each product, by what is answered to others: float32 [B, K].

        It is Task.any_of the labels that the task's condition names, in a chain of conditions the smallest of these;
        1 where there is no condition.
        """
        by_name, own = self.by_name, {task.name: scores for task, scores in self.split(scores_BL)}
        result_BK = np.ones((len(scores_BL), len(self)), dtype=np.float32)
        for place, task in enumerate(self):
            for condition in conditions_of(task, by_name):
                other = by_name[condition.task]
                score_B = other.any_of(own[other.name], [other.labels.index(label) for label in condition.labels])
                result_BK[:, place] = np.minimum(result_BK[:, place], score_B)
        return result_BK

    def applies(self, scores_BL: np.ndarray) -> np.ndarray:
        """Bool [B, K]: the tasks that are asked of each product."""
        return np.greater_equal(self.applicable(scores_BL), APPLIES_FROM)

    def scores(self, logits_BC: np.ndarray) -> np.ndarray:
        """Float32 [B, L] in 0..1."""
        return np.concatenate([task.scores(logits) for task, logits in self.split_logits(logits_BC)], axis=1)

    def predictions(
        self, scores_BL: np.ndarray, text_share_BK: np.ndarray, present_B2: np.ndarray
    ) -> list[dict[str, Answer]]:
        """What is said of each product, ready for JSON: task name -> answer, text share and modality.

        Where a task has a condition, `applicable` is how likely it holds; below APPLIES_FROM there is no label.

        Args:
            scores_BL: from `scores`.
            text_share_BK: λ per task.
            present_B2: whether there was a title, an image.
        """
        modalities = [MODALITY[bool(title), bool(image)] for title, image in present_B2]
        products: list[dict[str, Answer]] = [{} for _ in scores_BL]
        columns = zip(self.split(scores_BL), text_share_BK.T, self.applicable(scores_BL).T, strict=True)
        for (task, own_BL), share_B, applicable_B in columns:
            parts = zip(products, task.answers(own_BL), share_B, applicable_B, modalities, strict=True)
            for product, answer, share, applicable, modality in parts:
                if task.only_if:
                    answer = answer if applicable >= APPLIES_FROM else not_applicable(answer)
                    answer["applicable"] = number(applicable)
                product[task.name] = answer | {"text_share": number(share), "modality": modality}
        for task in self:
            if isinstance(task, Mismatch) and task.refuses:
                refuse_others(products, task.name)
        return products
