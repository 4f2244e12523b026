"""HDF5 files: opened and checked with clear errors, read by ranges of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

READ_ROWS = 32
SCAN_ROWS = 16_384


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        ValueError: it is missing, cut short or no HDF5 file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        # Without locking: file systems of clusters refuse the lock, and nobody writes here.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error}); download it again") from None


def column(file: h5py.File, key: str, shape: tuple[int, ...], kinds: str) -> h5py.Dataset:
    """One dataset of the file.

    Args:
        shape: of one row; the number of rows is not looked at.
        kinds: numpy's letters of the types that are accepted, `u` for unsigned whole numbers and so on.
    Raises:
        ValueError: it is missing, of another shape or of another type.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{file.filename}: no dataset {key}; it has {', '.join(sorted(file))}")
    if found.shape[1:] != shape:
        expected = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"{file.filename}: {key} has the shape {found.shape}, expected ({expected})")
    if found.dtype.kind not in kinds:
        raise ValueError(f"{file.filename}: {key} is of type {found.dtype}, expected one of the kinds {kinds}")
    return found


def check_rows(file: h5py.File, keys: Sequence[str]) -> int:
    """The number of rows, which all of these datasets must have.

    Raises:
        ValueError: two of them differ.
    """
    rows = {key: len(file[key]) for key in keys}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{file.filename}: the datasets differ in length: {rows}")
    return rows[keys[0]]


def read(dataset: h5py.Dataset, rows: slice) -> np.ndarray:
    """Consecutive rows.

    Raises:
        ValueError: that part of the file is damaged.
    """
    try:
        return dataset[rows]
    except OSError as error:
        where = f"{dataset.file.filename}: rows {rows.start} to {rows.stop} of {dataset.name}"
        raise ValueError(f"{where} cannot be read ({error}); download the file again") from None


def read_all(dataset: h5py.Dataset) -> np.ndarray:
    """A narrow column as a whole, read by and by; the second axis of (N, 1) is gone."""
    starts = range(0, len(dataset), SCAN_ROWS)
    parts = [read(dataset, slice(start, min(start + SCAN_ROWS, len(dataset)))) for start in starts]
    return np.concatenate(parts).reshape(len(dataset)) if parts else np.empty(0, dataset.dtype)


def runs(rows: Sequence[int]) -> Iterator[slice]:
    """Rising row numbers as slices of at most READ_ROWS consecutive rows."""
    start = end = None
    for row in rows:
        if start is not None and row == end and end - start < READ_ROWS:
            end += 1
            continue
        if start is not None:
            yield slice(start, end)
        start, end = row, row + 1
    if start is not None:
        yield slice(start, end)


def latin(value: bytes) -> str:
    """Single-byte text as the files hold it, without white space around it."""
    return value.decode("iso-8859-1").strip()
