"""Classify one product from the command line.

python -m client.classify --title "red striped dress" --image photo.jpg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.classifier import Classifier
from client.options import add_server_options, check_server_options, session_arguments
from cma_clip.command import command
from cma_clip.tables import aligned


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the answer."""
    options = _parse(arguments)
    with Classifier(**session_arguments(options)) as classifier:
        answer = classifier.classify(options.title, options.image)
    print(json.dumps(answer.prediction, ensure_ascii=False) if options.json else table(answer.prediction))


def table(prediction: dict[str, dict[str, Any]]) -> str:
    """One line per task: label(s), score(s), whether accepted, text share."""
    rows = [("task", "label", "score", "accepted", "text share")]
    for task, answer in prediction.items():
        row = (", ".join(answer["labels"]) or "-", ", ".join(f"{score:.3f}" for score in answer["scores"]) or "-")
        rows.append((task, *row, accepted_of(answer), f"{answer['text_share']:.2f}"))
    return aligned(rows)


def accepted_of(answer: dict[str, Any]) -> str:
    """`yes`, which labels where not all are, or `no` and why."""
    if not answer["accepted"]:
        return f"no ({answer['refused']})" if "refused" in answer else "no"
    labels = answer.get("accepted_labels", answer["labels"])
    return "yes" if len(labels) == len(answer["labels"]) else ", ".join(labels)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify one product.")
    parser.add_argument("--title", default="", help="the product's title")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the product's image")
    add_server_options(parser, timeout_s=10.0, retry_for_s=0.0)
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    options = parser.parse_args(arguments)
    if not options.title and options.image is None:
        parser.error("give --title, --image or both")
    if options.image is not None and not options.image.is_file():
        parser.error(f"{options.image}: no such file")
    check_server_options(parser, options)
    return options


if __name__ == "__main__":
    sys.exit(main())
