"""Bundle to ONNX to a Triton model repository, with a parity report against torch before anything is published."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cma_clip.command import command
from serve.export.publish import export
from serve.runtimes import DEFAULT_RUNTIME, RUNTIMES, server_words


@command
def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="directory written by training")
    parser.add_argument(
        "--deploy", type=Path, default=Path("deploy"), help="model repository to fill (made if missing)"
    )
    parser.add_argument("--runtime", choices=list(RUNTIMES), default=DEFAULT_RUNTIME)
    own = "; ".join(f"{name}: {', '.join(row.precisions)}" for name, row in RUNTIMES.items())
    parser.add_argument("--precision", help=f"of the matrix products; {own}; the first is the default")
    parser.add_argument("--data", type=Path, help="data set: its products are compared too, int8 is calibrated on them")
    parser.add_argument(
        "--refuse-mismatches", action="store_true", help="accept no answer where title and image do not belong together"
    )
    args = parser.parse_args(arguments)
    reports = export(args.bundle, args.deploy, args.runtime, args.precision, args.data, args.refuse_mismatches)
    for name, report in reports.items():
        print(_described(name, report))
    print(f"{args.deploy} is ready; next: {shlex.join(server_words(args.deploy, args.runtime))}")


def _described(name: str, report: dict[str, Any]) -> str:
    return (
        f"parity of {name} with torch over {report['cases']} batches, {report['products']} products:"
        f" largest probability difference {report['probability_difference']:.2e},"
        f" of λ {report['text_share_difference']:.2e}, flipped decisions {report['flips']}"
        f" (near ties {report['near_ties']}), agreement {report['agreement']:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
