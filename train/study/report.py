"""From the results of all runs to one file of numbers, Markdown tables and plots.

python -m train.study.report runs/study
python -m train.study.report runs/study --keep results      # also keep what was measured, without weights
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import to_json

from cma_clip.command import command
from cma_clip.files import new_directory, write_atomically
from train.study.plots import draw
from train.study.results import Variants, aggregate, read_results
from train.study.summary import summary
from train.study.tables import results_markdown


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=Path, help="the --output of train.study")
    keep = "directory that gets each run's result.json and summary.json of all that are there, of other machines too"
    parser.add_argument("--keep", type=Path, help=keep)
    args = parser.parse_args(arguments)
    report(args.study)
    print(f"{args.study}/results.md, results.json, summary.json and plots")
    if args.keep:
        keep_results(args.study, args.keep)
        print(f"{args.keep}/summary.json, and every result beside it")


def report(study: Path) -> None:
    """Write `results.json`, `summary.json`, `results.md` and `plots/` into the study's directory.

    Raises:
        ValueError: no run has a result, or one is broken.
    """
    studies = aggregate(read_results(study))
    with new_directory(study / "plots") as folder:
        drawn = {data_set: draw(data_set, variants, folder) for data_set, variants in studies.items()}
    write_atomically(study / "results.json", to_json(studies, indent=1, fallback=vars) + b"\n")
    write_atomically(study / "summary.json", summary_json(studies))
    images = {data_set: [f"plots/{path.name}" for path in paths] for data_set, paths in drawn.items()}
    write_atomically(study / "results.md", results_markdown(studies, images))


def summary_json(studies: dict[str, Variants]) -> bytes:
    """A figure that is not finite, of a run that diverged, is null: not all readers of JSON know NaN."""
    return to_json(summary(studies), indent=1, inf_nan_mode="null") + b"\n"


def keep_results(study: Path, directory: Path) -> None:
    """Copy what the runs measured, beside what is there, and write the summary of all.

    Raises:
        ValueError: a result there is broken, or of other tasks.
    """
    for path in sorted(study.glob("*/*/seed*/result.json")):
        kept = directory / path.relative_to(study)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, path.read_bytes())
    write_atomically(directory / "summary.json", summary_json(aggregate(read_results(directory))))


if __name__ == "__main__":
    sys.exit(main())
