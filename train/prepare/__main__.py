"""`python -m train.prepare DATA_SET --output DIR`: make a data set to train on."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from cma_clip.command import command
from train.prepare import apa_mini, catalog, emoji, fashion_gen, food101, mm_imdb, open_clipart

DATA_SETS = {
    "apa_mini": apa_mini,
    "open_clipart": open_clipart,
    "emoji": emoji,
    "fashion_gen": fashion_gen,
    "food101": food101,
    "mm_imdb": mm_imdb,
    "catalog": catalog,
}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand; the same one goes on from where it was stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = _parser().parse_args(arguments)
    DATA_SETS[chosen.data_set].run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="data_set", required=True)
    for name, module in DATA_SETS.items():
        summary = (module.__doc__ or name).splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser


if __name__ == "__main__":
    sys.exit(main())
