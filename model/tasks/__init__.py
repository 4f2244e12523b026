"""What a network answers: kinds of tasks as objects, when a task is asked at all, and the set of a bundle's tasks.

No torch at import. All that depends on the kind is asked from the task (kinds.py); who else needs to know goes through
`TaskSet`, which alone does arithmetic on offsets. A new kind is a subclass of Task (or of the kind that it resembles)
with a row in KINDS, and its tests; docs/extending.md writes one down.
"""

from model.tasks.answers import NOT_APPLICABLE, Answer, labels_for_people
from model.tasks.condition import APPLIES_FROM, Condition
from model.tasks.kinds import (
    KINDS,
    MISMATCH,
    MISSING,
    NOT_ASKED,
    Mismatch,
    MultiLabel,
    SingleLabel,
    Task,
    has_labels,
    labelled_kinds,
)
from model.tasks.task_set import TaskSet

__all__ = [
    "APPLIES_FROM",
    "KINDS",
    "MISMATCH",
    "MISSING",
    "NOT_APPLICABLE",
    "NOT_ASKED",
    "Answer",
    "Condition",
    "Mismatch",
    "MultiLabel",
    "SingleLabel",
    "Task",
    "TaskSet",
    "has_labels",
    "labelled_kinds",
    "labels_for_people",
]
