"""Ask the server for a whole catalogue; killed at any moment, the same command goes on where it was.

python -m client.predict --csv products.csv --id-column sku --title-column name --image-column photo \\
    --url host:8001,host2:8001 --output answers.parquet
python -m client.predict --data data/mine --split test --output answers.csv

Each id is once in the output or, with code and message, in OUTPUT.rejects.csv; OUTPUT.json sums up.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client.options import add_server_options, check_server_options
from client.predict.answers import finished
from client.predict.catalogue import open_catalogue
from client.predict.run import ask_for
from cma_clip.command import command
from dataset.resume import beside
from dataset.rows import add_reading_options
from dataset.splits import SPLITS


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Ends well only when all rows were asked for."""
    options = _parse(arguments)
    catalogue = open_catalogue(options)
    summary = None if options.overwrite else finished(options.output, catalogue.settings)
    if summary is not None:
        print(f"{options.output}: already there, of the same catalogue ({summary})")
        return
    summary = ask_for(catalogue, options)
    print(f"{options.output}: {summary}")
    if summary.rejected:
        codes = ", ".join(f"{code} {count}" for code, count in summary.rejected.items())
        print(f"{beside(options.output, 'rejects.csv')}: {codes}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--csv", type=Path, help="comma-separated UTF-8 file with a header")
    source.add_argument("--parquet", type=Path, help="Parquet file, or a directory of them")
    source.add_argument("--data", type=Path, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test", help="of --data (%(default)s)")
    parser.add_argument("--id-column", help="without it row numbers serve as ids")
    parser.add_argument("--title-column")
    parser.add_argument("--image-column", help="paths; in Parquet also encoded bytes")
    parser.add_argument("--image-root", type=Path, help="folder of the images; default: the table's")
    parser.add_argument(
        "--allow-outside", action="store_true", help="read images that lie outside that folder, too: ../, links, /…"
    )
    add_reading_options(parser)
    parser.add_argument(
        "--replace-invalid-utf8", action="store_true", help="of a CSV: read such bytes as U+FFFD instead of rejecting"
    )
    parser.add_argument("--output", type=Path, required=True, help="the answers, .parquet or .csv")
    parser.add_argument("--overwrite", action="store_true", help="replace the output of another run")
    parser.add_argument("--in-flight", type=int, default=32, metavar="N", help="calls open at a time (%(default)s)")
    add_server_options(parser, timeout_s=10.0, retry_for_s=60.0)
    options = parser.parse_args(arguments)
    check_server_options(parser, options)
    if options.output.suffix not in (".parquet", ".csv"):
        parser.error(f"--output {options.output}: expected a name that ends with .parquet or .csv")
    if not options.data and not (options.title_column or options.image_column):
        parser.error("give --title-column, --image-column or both")
    if options.in_flight < 1:
        parser.error(f"--in-flight is {options.in_flight}, expected 1 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
