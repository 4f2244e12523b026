"""From a table of titles, images and labels to a bundle that is judged and ready to be served.

cma-clip fit products.csv --output runs/mine
cma-clip fit products.csv --image photo --title name --task color --task tags:multi_label --output runs/mine

It looks at table and machine, says what it takes each column for and what it is going to do, and then runs the commands
that anybody may run: prepare, rivals, the stages of training, score, export. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cma_clip.command import command, split_at_dashes
from dataset.format import DatasetInfo
from serve.runtimes import DEFAULT_RUNTIME, server_words
from train.children import Children
from train.fit.leaderboard import leaderboard
from train.fit.plan import RIVALS, SCORE, settle
from train.fit.steps import run


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = fit_catalog(sys.argv[1:] if arguments is None else arguments)
    if args.serve:
        server = server_words(args.deploy, DEFAULT_RUNTIME)
        os.execv(server[0], server)


def fit_catalog(arguments: Sequence[str]) -> argparse.Namespace:
    """All that `main` does before a server starts, in this process and its children; returns the options.

    Raises:
        Stopped: by SIGINT or SIGTERM; the same options go on.
        ValueError: the input is wrong.
        Failure: a step failed otherwise.
    """
    own, further = split_at_dashes(arguments)
    args, overrides = _parser().parse_known_args(own)
    if args.minutes is not None and not args.minutes > 0:
        raise ValueError(f"--minutes {args.minutes}: expected more than 0")
    if args.serve and args.no_export:
        raise ValueError("--serve and --no-export: expected one of the two")
    if args.serve and not Path(server_words(args.deploy, DEFAULT_RUNTIME)[0]).is_file():
        raise ValueError("--serve: no tritonserver here; cma-clip local-server --install, in an environment of its own")
    if args.pretrain:
        DatasetInfo.read(args.pretrain)
    plan = settle(args, overrides, further)
    print(plan.text(), flush=True)
    if args.dry_run:
        return args
    with stopped_by_signals(Children()) as children:
        run(plan, args.output, args.deploy, children)
    print(leaderboard(args.output / SCORE, args.output / RIVALS))
    print(f"bundle: {args.output / 'bundle'}; figures, tables by label and every answer: {args.output / SCORE}")
    answers = args.output / SCORE / "predictions.parquet"
    print(f"what a person should look at: cma-clip console --data {plan.data} --answers {answers}")
    if "export" in plan.seconds:
        print(f"serve: {shlex.join(server_words(args.deploy, DEFAULT_RUNTIME))}")
        print("ask: cma-clip classify --title TITLE --image FILE")
    return args


@contextmanager
def stopped_by_signals(children: Children) -> Iterator[Children]:
    """SIGINT and SIGTERM end the children; only a main thread may say so, another is stopped with its process."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, children.stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield children
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Dotted options are the recipe's (--stages.end_to_end.epochs 4); after -- stand prepare catalog's.",
        allow_abbrev=False,
    )
    parser.add_argument("table", type=Path, help="CSV, Parquet file or directory, or a prepared data set")
    parser.add_argument("--output", type=Path, required=True, help="directory of all that is made")
    parser.add_argument("--image", metavar="COLUMN", help="paths of images, or their bytes; default: found out")
    parser.add_argument("--title", metavar="COLUMN", help="default: found out")
    parser.add_argument("--id", metavar="COLUMN", help="default: found out, else row numbers")
    parser.add_argument(
        "--task",
        action="append",
        default=[],
        metavar="[NAME=]COLUMN[:KIND[:SEPARATOR]]",
        help="labels to learn; repeatable; default: all columns that look like labels",
    )
    parser.add_argument("--image-root", type=Path, help="folder of the images; default: the table's")
    pretrain = "prepared data set of images and what they show, for CLIP's towers to begin with"
    parser.add_argument("--pretrain", type=Path, metavar="DIR", help=pretrain)
    parser.add_argument("--minutes", type=float, help="train no longer than fits into so much time in all")
    parser.add_argument("--recipe", type=Path, help="in place of the default one and its epochs by size")
    parser.add_argument("--no-rivals", action="store_true", help="do not fit what takes no network")
    parser.add_argument("--no-export", action="store_true", help="build no engine")
    parser.add_argument("--serve", action="store_true", help="at the end, become the server over --deploy")
    parser.add_argument("--deploy", type=Path, default=Path("deploy"), help="model repository to fill (%(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    return parser


if __name__ == "__main__":
    sys.exit(main())
