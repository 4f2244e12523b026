"""Is a new bundle worse than the one before? Each figure with an interval, on the same products; exit code 1 if so.

python -m train.compare runs/before/bundle runs/mine/bundle --data data/june --output compare.html

Products are drawn again, in pairs, to tell a difference from chance. `--limit 0.01` lets a figure lose a hundredth.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from cma_clip.command import EXIT_FAILED, command
from cma_clip.files import write_atomically
from cma_clip.tables import aligned
from dataset.format import DatasetInfo
from dataset.splits import SPLITS
from train.report.before import Change, Turned, hold_against
from train.report.judged import Judged, judge

ROUNDS, BATCH = 7, 32
HEAD = ("task", "figure", "before", "now", "difference", "95 % interval", "")


@command
def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    if args.limit < 0:
        raise ValueError(f"--limit {args.limit}: expected 0 or more")
    if args.output and (args.output.is_dir() or not args.output.parent.is_dir()):
        raise ValueError(f"--output {args.output}: expected a file in a folder that is there")
    before, now = (judge(path, args.data, args.split, args.batch_size) for path in (args.before, args.bundle))
    held = hold_against(str(args.before), before.by_task(), now.by_task())._replace(speed=speed(before, now))
    print(table(held.changed, args.limit))
    print("\n".join(answers_that_changed(*of_task) for of_task in held.turned.items()))
    for lines in (only_in(args.bundle, now, before), only_in(args.before, before, now), [held.speed]):
        print("\n".join(lines), end="\n" if lines else "")
    if args.output:
        write_atomically(args.output, now.report(DatasetInfo.read(args.data), args.split, before=held))
        print(f"report: {args.output}")
    worse = [
        f"{task}: {one.figure}" for task, found in held.changed.items() for one in found if one.is_worse(args.limit)
    ]
    if worse:
        print(f"worse than {args.before} by more than {args.limit:g}: {', '.join(worse)}", file=sys.stderr)
    return EXIT_FAILED if worse else 0


def table(changed: Mapping[str, Sequence[Change]], limit: float) -> str:
    """For people."""
    rows: list[Sequence[str]] = [HEAD]
    for task, found in changed.items():
        for one in found:
            figures = [_number(one.before, "{:.3f}"), _number(one.after, "{:.3f}"), _number(one.difference, "{:+.3f}")]
            verdict = "WORSE" if one.is_worse(limit) else "" if not one.is_sure or one.is_worse() else "better"
            rows.append((task, one.figure, *figures, f"{one.low:+.3f} to {one.high:+.3f}", verdict))
    return aligned(rows)


def only_in(name: Path, judged: Judged, other: Judged) -> list[str]:
    """A line for each task that only the first of the two answers."""
    theirs = other.bundle.config.tasks.by_name
    alone = [task.name for task in judged.bundle.config.tasks if task.name not in theirs]
    return [f"{task}: only {name} answers it, so there is nothing to compare" for task in alone]


def answers_that_changed(task: str, which: Turned) -> str:
    """For people."""
    said = f"{len(which.better)} wrong answers are right now, {len(which.worse)} right ones are wrong"
    return f"{task}: {said}, {len(which.other)} wrong ones are others, of {which.products}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


@torch.no_grad()
def speed(before: Judged, now: Judged) -> str:
    """How long both networks take of the same products, in turns; the engines are timed by bench.engines."""
    turns = {id(judged): _inputs(judged) for judged in (before, now)}
    times: dict[int, list[float]] = {key: [] for key in turns}
    for _ in range(ROUNDS + 1):
        for judged in (before, now):
            start = time.perf_counter()
            judged.bundle.network(*turns[id(judged)]).logits_BC.cpu()
            times[id(judged)].append(time.perf_counter() - start)
    old, new = (1000 * median(times[id(judged)][1:]) for judged in (before, now))
    device = next(now.bundle.network.parameters()).device
    return f"{BATCH} products at once take {new:.1f} ms on {device}, before {old:.1f} ms: {new / old:.2f} times as long"


def _inputs(judged: Judged) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dataset = judged.dataset
    batch = dataset.collate([dataset[place % len(dataset)] for place in range(BATCH)])
    batch = batch.to(next(judged.bundle.network.parameters()).device)
    return batch.input_ids_BT, batch.pixels_BHWC, batch.present_B2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="bundle that is served")
    parser.add_argument("bundle", type=Path, help="bundle that shall be")
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=float, default=0.0, help="that a figure may lose (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the report of the second, with what has changed")
    parser.add_argument("--batch_size", type=int, default=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
