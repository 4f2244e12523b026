"""Decide anew which answers of a bundle are accepted: by a precision that is promised, or by what mistakes cost.

python -m train.promise runs/apa_mini/bundle --data data/apa_mini --precision 0.95 --precision color=0.98

No weight changes. The labelled products must be others than those that were trained on. What is served follows with the
next export.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from cma_clip.command import command
from cma_clip.files import write_atomically
from cma_clip.settings import one_line
from model.acceptance import Rule
from model.config import BundleConfig
from model.tasks import TaskSet
from train.acceptance import remarks, with_acceptance
from train.data import IN_ORDER, ProductDataset
from train.predict import answers_for, open_bundle


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    bundle = open_bundle(args.bundle, args.data)
    config = bundle.config
    rules = rules_of(args, config.tasks.labelled)
    dataset = ProductDataset(args.data, args.split, config.preprocess, bundle.tokenizer, IN_ORDER, config.tasks)
    answers = answers_for(bundle, dataset, args.batch_size)
    tasks = with_acceptance(answers.logits_NC, answers.targets_NC, config.tasks, rules)
    if not args.dry_run:
        write_tasks(args.bundle, tasks)
    print("\n".join(remarks(tasks)))
    done = "nothing is changed (--dry-run)" if args.dry_run else "what is served follows with the next cma-clip export"
    print(f"{args.bundle}: by the {args.split} split of {args.data}; {done}")


def write_tasks(directory: Path, tasks: TaskSet) -> None:
    """Replace the tasks of a bundle on disk, whose weights stay."""
    path = directory / "config.json"
    config = BundleConfig.read(path).model_copy(update={"tasks": tasks})
    write_atomically(path, config.model_dump_json(indent=2) + "\n")


def rules_of(args: argparse.Namespace, tasks: TaskSet) -> dict[str, Rule]:
    """The rule of each task.

    Raises:
        ValueError: a task that the bundle has not, or numbers that are no rule.
    """
    names = [task.name for task in tasks]
    settings = {"confidence": args.confidence, "cost_wrong": args.cost_wrong, "cost_review": args.cost_review}
    precisions = dict.fromkeys(names, Rule().precision)
    for name, precision in sorted(args.precision, key=lambda given: given[0] is not None):
        if name is not None and name not in names:
            raise ValueError(f"--precision {name}=…: no such task; the bundle has {', '.join(names)}")
        precisions |= dict.fromkeys([name] if name else names, precision)
    try:
        return {
            name: Rule(precision=precision, per_label=args.per_label, **settings)
            for name, precision in precisions.items()
        }
    except ValidationError as error:
        raise ValueError(one_line(error)) from None


def _precision(text: str) -> tuple[str | None, float]:
    """`0.95`, or `color=0.95` of one task."""
    name, _, number = text.rpartition("=")
    return name or None, float(number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="decides (%(default)s)")
    parser.add_argument(
        "--precision", type=_precision, action="append", default=[], metavar="[TASK=]SHARE", help="default: 0.9"
    )
    parser.add_argument("--confidence", type=float, default=Rule().confidence, help="of the promise (%(default)s)")
    parser.add_argument("--cost-wrong", type=float, help="in place of a promise: of an accepted answer that is wrong")
    parser.add_argument("--cost-review", type=float, help="of an answer that is not accepted, in the same unit")
    parser.add_argument("--per-label", action="store_true", help="a promise for each label that is answered often")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--dry-run", action="store_true", help="say what would be accepted, and write nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
