"""What the preparers of the paper's data sets share: the files of a source, and the paper's counts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from dataset.format import DatasetInfo

MAX_REJECTS = 0.001
VALIDATION = (0.0, 0.9)


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


def refuse_missing(missing: list[str], rows: int, most: float) -> None:
    """Refuse a source that lacks too many images before any work is done.

    Raises:
        ValueError: with the first missing one.
    """
    if len(missing) > most * rows:
        raise ValueError(
            f"{missing[0]}: no such image; {len(missing)} of {rows} are missing, --max-rejects allows {100 * most:g}%"
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
