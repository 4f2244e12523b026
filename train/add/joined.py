"""A bundle with other tasks: what stands beside the weights follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from model.bundle import Bundle
from model.cma_clip import CMAClip
from model.config import BundleConfig
from model.reference import Reference, TaskReference
from model.tasks import Task, TaskSet
from train.add.fit import Fitted, TaskFit
from train.add.regrouped import regrouped
from train.reference import reference_of


def bundle_with(
    bundle: Bundle, fit: TaskFit, fitted: Fitted, trained: Mapping[str, Any]
) -> tuple[BundleConfig, CMAClip]:
    """Configuration and network with the task behind all others, or in the place of the one of its name.

    Args:
        fitted: what came of `fit`; its task with the condition that it is to have.
        trained: for the provenance, by what the task was trained.
    """
    network, task, old = bundle.network, fitted.task, list(bundle.config.tasks)
    assert isinstance(network, CMAClip)
    sources = [(network, place) for place in range(len(old))]
    place = next((place for place, other in enumerate(old) if other.name == task.name), len(old))
    old[place : place + 1], sources[place : place + 1] = [task], [(fit.network, 0)]
    said = {"task": task.name, "epoch": fitted.epoch, "validation_loss": fitted.loss, **trained}
    grown = regrouped(bundle.config, network, old, sources)
    # All tasks answer: whether one with a condition is asked hangs on the others.
    answers = fit.answers(fit.validation, grown)
    readable = sorted({*range(len(answers.logits_NC))} - {*answers.unreadable})
    counted = reference_of(answers.of(readable), TaskSet(old)).tasks
    return with_tasks(bundle.config, old, {task.name: counted[task.name]}, "added", said), grown.cpu()


def bundle_without(bundle: Bundle, name: str) -> tuple[BundleConfig, CMAClip]:
    """Configuration and network without a task.

    Raises:
        ValueError: there is no such task, or no other one that data sets have labels of.
    """
    network, tasks = bundle.network, bundle.config.tasks
    assert isinstance(network, CMAClip)
    kept = [place for place, task in enumerate(tasks) if task.name != name]
    if len(kept) == len(tasks):
        raise ValueError(f"--task {name}: the bundle has {', '.join(task.name for task in tasks)}")
    left = [tasks[place] for place in kept]
    if not any(task.is_labelled for task in left):
        raise ValueError(f"--task {name}: nothing would be left to answer")
    config = with_tasks(bundle.config, left, {}, "removed", {"task": name})
    return config, regrouped(config, network, left, [(network, place) for place in kept])


def with_tasks(
    config: BundleConfig,
    tasks: Sequence[Task],
    counted: Mapping[str, TaskReference],
    how: str,
    said: Mapping[str, Any],
) -> BundleConfig:
    """The configuration for these tasks; of those that are not new in `counted`, the counts of before stay."""
    reference: Reference | None = None
    if config.reference:
        counts = {**config.reference.tasks, **counted}
        reference = config.reference.model_copy(update={"tasks": {task.name: counts[task.name] for task in tasks}})
    history = {how: [*config.provenance.get(how, []), dict(said)]}
    changed = {"tasks": TaskSet(tasks), "reference": reference, "provenance": config.provenance | history}
    return config.model_copy(update=changed)
