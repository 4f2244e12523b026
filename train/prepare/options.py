"""The options that preparers share, and numbers held against what they may be."""

from __future__ import annotations

import argparse
from pathlib import Path

from cma_clip.machine import usable_cores

MOST = 10**9
RANGES = {
    "seed": (0, MOST),
    "workers": (1, 1024),
    "max_rejects": (0.0, 1.0),
    "quality": (1, 100),
}


def add_common_arguments(
    parser: argparse.ArgumentParser, max_rejects: float | None = None, seed: str | None = None
) -> None:
    """What nearly all preparers have.

    Args:
        max_rejects: the default; None where nothing can be rejected.
        seed: what it is of; None where nothing is drawn by chance.
    """
    parser.add_argument("--output", type=Path, required=True, help="directory of the new data set")
    if max_rejects is not None:
        parser.add_argument(
            "--max-rejects", type=float, default=max_rejects, help="share of unusable rows allowed (%(default)s)"
        )
    if seed is not None:
        parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes (all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace an old data set")


def check_ranges(arguments: argparse.Namespace, **own: tuple[float, float]) -> None:
    """Refuse a number out of its range.

    Args:
        own: option -> least and most, beside those of RANGES; options that the command does not have are passed over.
    Raises:
        ValueError: naming the first such option.
    """
    for name, (least, most) in (RANGES | own).items():
        value = getattr(arguments, name, least)
        if not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected a number from {least} to {most}")
