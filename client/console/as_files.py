"""The decisions of a console as files, for training or for another tool.

cma-clip decisions --data data/apa_mini --output decisions.parquet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from client.console.catalog import Catalog
from client.console.decisions import Decisions, place_of_decisions
from client.console.exports import FORMATS
from client.console.queue import Queue
from cma_clip.command import command
from cma_clip.files import new_directory, new_file
from dataset.format import DatasetInfo


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set that was reviewed")
    parser.add_argument("--decisions", type=Path, help="file of the console; default: beside the data set")
    parser.add_argument("--format", choices=FORMATS, default="parquet", help="%(default)s")
    parser.add_argument("--output", type=Path, required=True, help="file; for csv and fiftyone a new folder")
    args = parser.parse_args(arguments)
    format = FORMATS[args.format]
    if format.suffix and args.output.suffix != format.suffix:
        raise ValueError(f"--output {args.output}: expected a name that ends in {format.suffix}")
    if args.output.is_dir() or (not format.suffix and args.output.exists()):
        raise ValueError(f"--output {args.output}: is there; name another one")
    path = args.decisions or place_of_decisions(args.data)
    decisions = Decisions(path, DatasetInfo.read(args.data).tasks.label_set_hash, read_only=True)
    catalog = Catalog(args.data, decisions)
    with (new_file if format.suffix else new_directory)(args.output) as partial:
        format.write(partial, catalog)
    print(f"{args.output}: the decisions about {Queue(catalog, decisions).counts().decided} products")


if __name__ == "__main__":
    sys.exit(main())
