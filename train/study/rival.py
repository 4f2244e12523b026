"""Fit one rival for a study and measure it on the test split; train.rivals is for people.

python -m train.study.rival tfidf --data data/apa_mini --output measured.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command
from cma_clip.files import write_atomically
from dataset.format import DatasetInfo
from train.rivals.products import open_split
from train.rivals.rival import fit_rival
from train.rivals.table import RIVALS
from train.study.measure import measured


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(";")[0])
    parser.add_argument("rival", choices=RIVALS)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--output", type=Path, required=True, help="a .json file")
    args = parser.parse_args(arguments)
    fitted = fit_rival(RIVALS[args.rival], args.data)
    result = measured(fitted, fitted.tasks, open_split(args.data, "test"), DatasetInfo.read(args.data))
    result |= {"parameters": fitted.parameters, "notes": fitted.remarks()}
    write_atomically(args.output, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
