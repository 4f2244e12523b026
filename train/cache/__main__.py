"""Compute once what the frozen part of a network says of a data set, and keep it beside the data set.

python -m train.cache runs/mine/end_to_end/best --data data/mine            for --stage tuning, and for train.add
python -m train.cache runs/mine/contrastive/best --data data/mine --for warmup
python -m train.cache train/recipes/apa.yaml --data data/mine --for warmup  where CLIP's own weights are the start

Training takes it by itself where it is of the same weights and products. The same command goes on after a stop.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from train.cache.make import Pace, make_cache
from train.cache.use import KINDS


@command
def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    pace = Pace(args.batch_size, args.processes, args.loader_workers)
    if min(pace[:2]) < 1 or pace.loader_workers < 0:
        raise ValueError("--batch_size and --processes are 1 or more, --loader_workers 0 or more")
    output = make_cache(args.source, args.data, KINDS[args.stage], args.output, pace)
    print(f"{output} is ready; --stage {args.stage} takes it by itself (--cache {output}, where it lies elsewhere)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a bundle, or a recipe whose towers are pretrained")
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--for", dest="stage", choices=[*KINDS], default="tuning", help="stage that shall read it")
    parser.add_argument("--output", type=Path, help="its directory; beside the data set unless given")
    parser.add_argument("--batch_size", type=int, default=Pace().batch_size, help="products at once")
    parser.add_argument("--processes", type=int, default=Pace().processes, help="that compute, on a GPU each")
    parser.add_argument("--loader_workers", type=int, default=Pace().loader_workers, help="that decode, for each")
    return parser


if __name__ == "__main__":
    sys.exit(main())
