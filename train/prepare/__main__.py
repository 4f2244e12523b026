"""`python -m train.prepare DATA_SET --output DIR`: make a data set to train on."""

from __future__ import annotations

import argparse
import logging
import sys

from pydantic import ValidationError

from cma_clip.settings import one_line
from train.prepare import apa_mini, catalog, fashion_gen, food101, mm_imdb, open_clipart

DATA_SETS = {
    "apa_mini": apa_mini,
    "open_clipart": open_clipart,
    "fashion_gen": fashion_gen,
    "food101": food101,
    "mm_imdb": mm_imdb,
    "catalog": catalog,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; exit code 0, 2 for unusable input, 130 for Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = _parser().parse_args(arguments)
    try:
        DATA_SETS[chosen.data_set].run(chosen)
    except ValidationError as error:
        return _fail(one_line(error))
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print(f"stopped; {chosen.output} is as it was", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.prepare", description=__doc__)
    commands = parser.add_subparsers(dest="data_set", required=True)
    for name, module in DATA_SETS.items():
        summary = (module.__doc__ or name).splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
