"""Give tasks and labels of a bundle other names, without training: answers, scores and thresholds stay.

python -m train.rename runs/mine/bundle --output runs/renamed --label color gray grey --task color colour

LABEL_SET changes with it, so callers that pin it are told. A data set that is to fit has to have the new names too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cma_clip.command import command
from cma_clip.files import new_directory, write_atomically
from cma_clip.settings import one_line
from dataset.labels import RESERVED
from model.config import BundleConfig
from model.reference import Reference
from model.tasks import Condition, Task, TaskSet

FILES = ("model.safetensors", "tokenizer.json")


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if not args.label and not args.task:
        raise ValueError("nothing to rename: give --label TASK OLD NEW, or --task OLD NEW")
    if args.output.exists():
        raise ValueError(f"--output {args.output}: is there; name a new directory")
    config = BundleConfig.read(args.bundle / "config.json")
    for file in FILES:
        if not (args.bundle / file).is_file():
            raise ValueError(f"{args.bundle / file}: no such file")
    for task, old, new in args.label:
        config = with_label(config, task, old, new)
    for old, new in args.task:
        config = with_task(config, old, new)
    with new_directory(args.output) as folder:
        for file in FILES:
            shutil.copy(args.bundle / file, folder / file)
        write_atomically(folder / "config.json", config.model_dump_json(indent=2) + "\n")
    print(f"bundle: {args.output}, label set {config.tasks.label_set_hash}")


def with_label(config: BundleConfig, task: str, old: str, new: str) -> BundleConfig:
    """The bundle with another name for a label; its place stays.

    Raises:
        ValueError: there is no such label, or the new one is there.
    """
    found = _task(config, f"--label {task} {old} {new}", task)
    if old not in found.labels:
        raise ValueError(f"--label {task} {old} {new}: {task} has no label {old!r}")
    if new in found.labels:
        raise ValueError(f"--label {task} {old} {new}: {new!r} is there; to make two labels one, train again")
    if not new.strip():
        raise ValueError(f"--label {task} {old} {new!r}: the new name is empty")
    labels = [new if label == old else label for label in found.labels]
    tasks = [one.model_copy(update={"labels": labels}) if one is found else one for one in config.tasks]
    tasks = [_with_condition(one, lambda condition: condition.relabelled(task, old, new)) for one in tasks]
    counted = config.reference.model_dump() if config.reference else None
    if counted:
        own = counted["tasks"][task]
        own["labels"] = {new if label == old else label: count for label, count in own["labels"].items()}
    return _changed(config, tasks, counted)


def with_task(config: BundleConfig, old: str, new: str) -> BundleConfig:
    """The bundle with another name for a task.

    Raises:
        ValueError: there is no such task, or the new name cannot be one.
    """
    found = _task(config, f"--task {old} {new}", old)
    if new in RESERVED:
        raise ValueError(f"--task {old} {new}: data sets have a column of that name; none of {', '.join(RESERVED)}")
    try:
        renamed = type(found).model_validate(found.model_dump() | {"name": new})
        every = (renamed if one is found else one for one in config.tasks)
        tasks = TaskSet(_with_condition(one, lambda condition: condition.renamed(old, new)) for one in every)
    except (ValidationError, ValueError) as error:
        said = one_line(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"--task {old} {new}: {said}") from None
    counted = config.reference.model_dump() if config.reference else None
    if counted:
        counted["tasks"] = {new if name == old else name: own for name, own in counted["tasks"].items()}
    return _changed(config, tasks, counted)


def _task(config: BundleConfig, option: str, name: str) -> Task:
    for task in config.tasks.labelled:
        if task.name == name:
            return task
    raise ValueError(f"{option}: the bundle has {', '.join(task.name for task in config.tasks.labelled)}")


def _with_condition(task: Task, change: Callable[[Condition], Condition]) -> Task:
    return task.model_copy(update={"only_if": change(task.only_if)}) if task.only_if else task


def _changed(config: BundleConfig, tasks: Iterable[Task], counted: dict[str, Any] | None) -> BundleConfig:
    reference = Reference.model_validate(counted) if counted else None
    return config.model_copy(update={"tasks": TaskSet(tasks), "reference": reference})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("--label", nargs=3, action="append", default=[], metavar=("TASK", "OLD", "NEW"))
    parser.add_argument("--task", nargs=2, action="append", default=[], metavar=("OLD", "NEW"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
