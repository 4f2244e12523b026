"""A bundle's report as one HTML file: figures, curves, the products that tell most, and what it was trained by.

python -m train.report runs/apa_mini/bundle --data data/apa_mini --output report.html

`train.score` writes the same beside its figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cma_clip.command import command
from cma_clip.files import write_atomically
from dataset.format import DatasetInfo
from dataset.splits import SPLITS
from train.report.before import hold_against
from train.report.judged import judge


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="directory written by train.prepare")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    parser.add_argument("--irrelevant", type=Path, metavar="DIR", help="what cma-clip irrelevant wrote of this bundle")
    parser.add_argument("--before", type=Path, metavar="BUNDLE", help="another bundle, to hold this one against")
    parser.add_argument("--batch_size", type=int, default=128)
    args = parser.parse_args(arguments)
    if args.output.is_dir() or not args.output.parent.is_dir():
        raise ValueError(f"--output {args.output}: expected a file in a folder that is there")
    found = read_perturbations(args.irrelevant, args.split) if args.irrelevant else None
    judged = judge(args.bundle, args.data, args.split, args.batch_size)
    before = None
    if args.before:
        other = judge(args.before, args.data, args.split, args.batch_size)
        before = hold_against(str(args.before), other.by_task(), judged.by_task())
    page = judged.report(DatasetInfo.read(args.data), args.split, found, before)
    write_atomically(args.output, page)
    print(f"report: {args.output}")


def read_perturbations(directory: Path, split: str) -> dict[str, Any]:
    """What `train.study.irrelevant` found.

    Raises:
        ValueError: it is not there, or of another split.
    """
    path = directory / "irrelevant.json"
    if not path.is_file():
        raise ValueError(f"--irrelevant {directory}: no irrelevant.json in it; cma-clip irrelevant writes one")
    found = json.loads(path.read_text())
    if found["split"] != split:
        raise ValueError(f"{path}: of the {found['split']} split, not of {split}")
    perturbations: dict[str, Any] = found["perturbations"]
    return perturbations


if __name__ == "__main__":
    sys.exit(main())
