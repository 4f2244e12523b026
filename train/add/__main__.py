"""Add a task to a trained bundle without training it again: minutes on cached products, and the old answers stay.

python -m train.add runs/mine/bundle --data data/june --task sleeve --output runs/with_sleeve
python -m train.add runs/mine/bundle --data data/mine --csv sleeves.csv --task sleeve:single_label --output …

The labels are a column of the data set, or of a table by the ids of its products (columns `id` and the task's). What
the network says of the products is cached beside the data set (train.cache), and the next task takes it from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from dataset.format import DatasetInfo
from dataset.labels import parse_task
from dataset.splits import SPLITS
from model.bundle import Bundle, load_bundle, save_bundle
from model.cma_clip import CMAClip
from model.tasks import Condition, Task, TaskSet, has_labels, labelled_kinds
from train.acceptance import remarks
from train.add.fit import TaskFit
from train.add.joined import bundle_with
from train.add.labels import Labels, read_labels
from train.add.regrouped import network_of
from train.cache.make import Pace, make_cache
from train.cache.rows import CachedProducts
from train.cache.use import as_cached
from train.data import IN_ORDER, ProductDataset
from train.metrics import format_table, task_metrics
from train.ranks import trained_by
from train.recipe import Recipe

FEWEST = 10  # labelled products of a split


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.output.exists():
        raise ValueError(f"--output {args.output}: is there; name a new directory")
    if any(number is not None and number < 1 for number in (args.epochs, args.batch_size)):
        raise ValueError("--epochs and --batch_size are 1 or more")
    bundle = open_for(args.bundle)
    task, labels = new_task(args.task, args.data, args.csv)
    condition = Condition(task=args.only_if[0], labels=args.only_if[1:]) if args.only_if else task.only_if
    task = task.model_copy(update={"only_if": None})  # alone it knows no other
    check_place(bundle.config.tasks, task.model_copy(update={"only_if": condition}), args.replace)
    cache = make_cache(args.bundle, args.data, "vectors", args.cache, Pace())
    splits = labelled_splits(bundle, args.data, cache, task, labels)
    network = bundle.network
    assert isinstance(network, CMAClip)
    fit = TaskFit(network_of(bundle.config, network, [task]), splits["train"], splits["validation"], recipe_of(bundle))
    fitted = fit.run(args.epochs, args.batch_size)
    fitted = fitted._replace(task=fitted.task.model_copy(update={"only_if": condition}))
    trained = {"data_hash": DatasetInfo.read(args.data).hash, "products": len(fit.labelled)}
    trained |= {"trained_by": trained_by(fit.ranks)}
    config, grown = bundle_with(bundle, fit, fitted, trained)
    save_bundle(args.output, config, grown)
    alone = TaskSet([fitted.task.model_copy(update={"only_if": None})])
    for split in [name for name in SPLITS if name in splits and name != "train"]:
        answers = fit.answers(splits[split])
        metrics = task_metrics(answers.logits_NC, answers.text_share_NK, answers.targets_NC, alone)
        print(f"{split} split of {args.data}:\n{format_table(metrics)}")
    for line in (*remarks(alone), *notes(bundle, fitted.task)):
        print(f"note: {line}")
    print(f"bundle: {args.output}, label set {config.tasks.label_set_hash}; next: cma-clip export {args.output}")


def open_for(directory: Path) -> Bundle:
    """The bundle.

    Raises:
        ValueError: it is damaged, or of a network that cannot take up a task so.
    """
    bundle = load_bundle(directory)
    if not isinstance(bundle.network, CMAClip):
        raise ValueError(f"{directory}: only cma_clip takes up a task so, not {bundle.config.model.architecture}")
    return bundle


def new_task(option: str, data: Path, table: Path | None) -> tuple[Task, Labels | None]:
    """The task, and its labels by id where a table has them.

    Raises:
        ValueError: neither the data set nor the table has such a column, or its labels are of no use.
    """
    if table:
        return read_labels(table, parse_task(option))
    (name, _, kind), tasks = option.partition(":"), DatasetInfo.read(data).tasks
    found = next((task for task in tasks if task.name == name), None)
    if found is None:
        has = ", ".join(task.name for task in tasks)
        raise ValueError(f"--task {option}: {data} has labels of {has} only; --csv FILE gives others by id")
    if kind not in ("", found.kind):
        raise ValueError(f"--task {option}: it is {found.kind} in {data}")
    return found, None


def check_place(tasks: TaskSet, task: Task, replace: bool) -> None:
    """Whether the task fits the others.

    Raises:
        ValueError: there is one of that name, or none where one is to be replaced; its condition, or another one's,
            names what is not there.
    """
    names = [other.name for other in tasks if other.is_labelled or other.name == task.name]
    if task.name in names and not replace:
        raise ValueError(f"--task {task.name}: the bundle has it; --replace trains it anew")
    if task.name not in names and replace:
        raise ValueError(f"--replace: the bundle has no task {task.name}; it has {', '.join(names)}")
    TaskSet([*(other for other in tasks if other.name != task.name), task])


def labelled_splits(
    bundle: Bundle, data: Path, cache: Path, task: Task, labels: Labels | None
) -> dict[str, CachedProducts]:
    """Each split of the data set as it was cached, with labels of this task alone.

    Raises:
        ValueError: too few products to train on, or to judge by, have one.
    """
    preprocess, tokenizer, tasks = bundle.config.preprocess, bundle.tokenizer, TaskSet([task])
    splits: dict[str, CachedProducts] = {}
    assert isinstance(bundle.network, CMAClip)
    for split in DatasetInfo.read(data).splits:
        original = ProductDataset(data, split, preprocess, tokenizer, IN_ORDER)
        splits[split] = as_cached(cache, bundle.network, split, original, tasks=tasks, labels=labels)
    for split in ("train", "validation"):
        labelled = int(has_labels(splits[split].targets_NL).sum()) if split in splits else 0
        if labelled < FEWEST:
            raise ValueError(
                f"{data}: {labelled} products of the {split} split have a label of {task.name}, {FEWEST} are needed"
            )
        print(f"{task.name}: {labelled:,} labelled products in the {split} split")
    met = sum(len(set(labels or ()).intersection(split.ids.to_pylist())) for split in splits.values())
    if met < len(labels or ()):
        print(f"note: {len(labels or ()) - met:,} labelled ids are no products of {data}")
    return splits


def recipe_of(bundle: Bundle) -> Recipe:
    """What the bundle was trained by."""
    return Recipe.model_validate(bundle.config.provenance.get("recipe", {}))


def notes(bundle: Bundle, task: Task) -> list[str]:
    """What else is to be done."""
    if not task.only_if:
        return of_mismatch(bundle, task.name)
    promise = (
        f"{task.name}: its promise is decided by products that it is asked of; cma-clip promise, on a data set with"
        f" labels of {task.only_if.task} too, counts those that it answers by mistake"
    )
    return [promise, *of_mismatch(bundle, task.name)]


def of_mismatch(bundle: Bundle, task: str) -> list[str]:
    """Whether `mismatch` changes with a task that stands before it."""
    wide, names = bundle.network.wide, [other.name for other in bundle.config.tasks]
    if wide is None or task not in [names[place] for place, _, tells_mismatch in wide.compared if tells_mismatch]:
        return []
    return [f"mismatch is told by how words and images agree about {task} too: judge it again (cma-clip score)"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    kinds = "|".join(labelled_kinds())
    parser.add_argument("--task", required=True, metavar=f"NAME[:{kinds}]", help="its column; a table's needs the kind")
    parser.add_argument("--csv", type=Path, help="ids and labels, CSV or Parquet; without it: those of --data")
    condition = "it is asked of products to which another task of the bundle gives one of these labels"
    parser.add_argument("--only-if", nargs="+", metavar=("TASK", "LABEL"), help=condition)
    parser.add_argument("--output", type=Path, required=True, help="a new directory")
    parser.add_argument("--replace", action="store_true", help="train a task anew that the bundle has")
    parser.add_argument("--cache", type=Path, help="its directory; beside the data set unless given")
    parser.add_argument("--epochs", type=int, help="passes over the labelled products; as many as suit them")
    parser.add_argument("--batch_size", type=int, help="of an update; as large as suits them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
