"""What a caller reads of an answer, as JSON has it. No torch at import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from model.tasks.kinds import Task

# L labels of one task

TOP_K = 3
Answer = dict[str, Any]
NOT_APPLICABLE = "not_applicable"  # why an answer is refused: the task is not asked of such products


def answer_of(task: Task, scores_L: np.ndarray, answered_L: np.ndarray, accepted_L: np.ndarray) -> Answer:
    """One product's labels with their scores, best first, whether any is accepted, and the TOP_K labels.

    Where a product has one label only, also as `label` and `score`; where it may have several and a promise was made,
    `accepted_labels` are those that keep it. An answer that is not accepted says why in `refused`.
    """
    order = np.argsort(-scores_L, kind="stable")
    chosen = [i for i in order if answered_L[i]]
    labels, numbers = [task.labels[i] for i in chosen], [number(scores_L[i]) for i in chosen]
    answer: Answer = {} if task.several_labels else {"label": labels[0], "score": numbers[0]}
    answer |= {"labels": labels, "scores": numbers, "accepted": bool(accepted_L.any())}
    if task.several_labels and task.acceptance:
        answer["accepted_labels"] = [task.labels[i] for i in chosen if accepted_L[i]]
    if not accepted_L.any():
        answer["refused"] = task.acceptance.why_not(answered_L) if task.acceptance else "score"
    answer["top"] = [[task.labels[i], number(scores_L[i])] for i in order[:TOP_K]]
    return answer


def not_applicable(answer: Answer) -> Answer:
    """The answer of a task whose condition does not hold: it has no label. `top` stays, as PROBABILITIES do."""
    nothing: Answer = {name: None for name in ("label", "score") if name in answer}
    nothing |= {"labels": [], "scores": [], "accepted": False, "refused": NOT_APPLICABLE}
    return answer | nothing | ({"accepted_labels": []} if "accepted_labels" in answer else {})


def refuse_others(products: Iterable[dict[str, Answer]], name: str) -> None:
    """Where the answer of that name is accepted, the others are not, and say why."""
    for product in products:
        if product[name]["accepted"]:
            others = (answer for other, answer in product.items() if other != name)
            for answer in others:
                answer |= {"accepted": False, "refused": name}
                if "accepted_labels" in answer:
                    answer["accepted_labels"] = []


def labels_for_people(answer: Mapping[str, Any]) -> str:
    """The labels of an answer, or why there are none."""
    nothing = "not applicable" if answer.get("refused") == NOT_APPLICABLE else "none"
    return ", ".join(answer["labels"]) or nothing


def number(value: np.floating) -> float:
    """Six decimals: what float32 can carry, and a short JSON."""
    return round(float(value), 6)
