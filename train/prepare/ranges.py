"""Numbers among the options, held against what they may be."""

from __future__ import annotations

import argparse
from collections.abc import Mapping


def check_ranges(arguments: argparse.Namespace, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse a number out of its range.

    Args:
        ranges: option -> least and most; options that the command does not have are passed over.
    Raises:
        ValueError: naming the first such option.
    """
    for name, (least, most) in ranges.items():
        value = getattr(arguments, name, least)
        if not least <= value <= most:
            raise ValueError(f"--{name.replace('_', '-')} {value}: expected a number from {least} to {most}")
