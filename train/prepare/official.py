"""What the preparers of the paper's data sets share: options, checks, and the paper's counts."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataset.format import DatasetInfo
from dataset.parallel import available_cores
from dataset.rows import Candidate, with_picture
from dataset.writer import Product, Reject
from model.config import PreprocessConfig
from model.preprocess import clean_title

MAX_REJECTS = 0.001
RANGES = {
    "validation": (0.0, 0.9),
    "quality": (1, 100),
    "max_rejects": (0.0, 1.0),
    "seed": (0, 10**9),
    "workers": (1, 1024),
}


@dataclass(frozen=True)
class EncodedPictures:
    """Makes products whose pictures are files: their bytes stay as they are, once training could decode them."""

    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)

    def products(self, split: str, items: Sequence[Candidate | Reject]) -> Iterator[Product | Reject]:
        """One product a candidate; rejects pass."""
        for item in items:
            yield item if isinstance(item, Reject) else self.product(item)

    def product(self, candidate: Candidate) -> Product | Reject:
        """The product with its picture, or what is wrong with its picture or its title."""
        try:
            clean_title(candidate.product.title, self.preprocess.max_title_bytes)
        except ValueError as error:
            return Reject(candidate.row, candidate.product.id, str(error))
        return with_picture(candidate, self.preprocess)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all of them have."""
    parser.add_argument("--output", type=Path, required=True, help="directory of the new data set")
    parser.add_argument(
        "--max-rejects", type=float, default=MAX_REJECTS, help="share of unusable rows allowed (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=available_cores(), help="processes (all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace an old data set")


def fingerprint(files: Iterable[os.DirEntry[str] | Path]) -> str:
    """16 hex digits that change when a file comes, goes, or is written to."""
    states = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]


def listing(folder: Path) -> dict[str, os.DirEntry[str]]:
    """The files of a folder by their names.

    Raises:
        ValueError: there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries if entry.is_file()}


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name; hidden ones do not count.

    Raises:
        ValueError: there is no such folder, or none in it.
    """
    found = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    if not found:
        raise ValueError(f"{folder}: no such folder, or no folders in it")
    return found


def refuse_leakage(where: Path | str, ids: dict[str, Iterable[str]]) -> None:
    """Refuse a source whose splits share an id: what was trained on would be tested.

    Args:
        ids: split, or the file it comes from -> ids.
    Raises:
        ValueError: with one of the ids and their number.
    """
    seen: dict[str, str] = {}
    shared = []
    for split, members in ids.items():
        for id in set(members):
            if id in seen:
                shared.append((id, seen[id], split))
            seen[id] = split
    if shared:
        id, first, second = min(shared)
        raise ValueError(
            f"{where}: {len(shared)} ids are in two splits, such as {id} in {first} and {second}; "
            "take all files from one release of the data set"
        )


def refuse_missing(missing: list[str], rows: int, most: float) -> None:
    """Refuse a source that lacks too many pictures before any work is done.

    Raises:
        ValueError: with the first missing one.
    """
    if len(missing) > most * rows:
        raise ValueError(
            f"{missing[0]}: no such picture; {len(missing)} of {rows} are missing, --max-rejects allows {100 * most:g}%"
        )


def report(info: DatasetInfo, found: dict[str, int], paper: dict[str, int]) -> None:
    """Print how the counts compare with the paper's, and labels that no training product has."""
    other = [
        f"{name} {found[name]:,} (the paper's: {count:,})" for name, count in paper.items() if found[name] != count
    ]
    print("  counts: " + (f"not the paper's: {', '.join(other)}" if other else "the paper's"))
    for task in info.tasks:
        counts = info.splits["train"].label_counts[task.name]
        empty = [label for label in task.labels if not counts[label]]
        if empty:
            print(f"  {task.name}: no training product has {', '.join(empty)}")


def rows_of(info: DatasetInfo, *splits: str) -> int:
    """Products of these splits together."""
    return sum(split.rows for name, split in info.splits.items() if name in splits)
