"""A part of a cache as an Arrow file: values of the products side by side, read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from cma_clip.files import new_file
from train.cache.layout import BFLOAT16, Column

# N products, T token ids, D width

TEXT = "text"  # the tokens of the titles, [length, D] each


def write_part(
    path: Path, columns: Mapping[str, Column], values: Mapping[str, np.ndarray], text: np.ndarray | None
) -> None:
    """Write one file, whole or not at all.

    Args:
        values: of each column, [N, *shape].
        text: tokens of all titles behind one another, as the bits of bfloat16, [sum of length, D].
    """
    arrays = {name: _fixed(values[name].astype(column.stored, copy=False)) for name, column in columns.items()}
    if text is not None:
        ends = np.concatenate([[0], values["length"].cumsum(dtype=np.int64)]) * text.shape[1]
        arrays[TEXT] = pa.LargeListArray.from_arrays(ends, text.ravel())
    batch = pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial, pa.ipc.new_file(str(partial.absolute()), batch.schema) as writer:
        writer.write_batch(batch)


def _fixed(values: np.ndarray) -> pa.Array:
    """[N, *shape] as an array of N lists of one length, or of N numbers."""
    flat = pa.array(values.ravel())
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))


class PartFile:
    """A file of `write_part`, mapped into memory: what is not asked for is not read.

    Attributes:
        rows: N.
        values: of each column, [N, *shape], as stored.
    Raises:
        ValueError: it is no such file, or has other columns.
    """

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        try:
            batch = pa.ipc.open_file(pa.memory_map(str(path.absolute()))).get_batch(0)
            self.rows = batch.num_rows
            self.values = {name: _values(batch.column(name), column) for name, column in columns.items()}
            text = batch.column(TEXT) if TEXT in batch.schema.names else None
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: not a readable part of a cache ({error}); make the cache again") from error
        self._ends = None if text is None else text.offsets.to_numpy()
        self._text = None if text is None else text.values.to_numpy()

    def text(self, row: int, width: int) -> np.ndarray:
        """Tokens of a title, the bits of bfloat16, [length, D]."""
        assert self._ends is not None and self._text is not None
        return self._text[self._ends[row] : self._ends[row + 1]].reshape(-1, width)


def _values(array: pa.Array, column: Column) -> np.ndarray:
    flat = array if not column.shape else array.flatten()
    return flat.to_numpy(zero_copy_only=True).reshape(len(array), *column.shape)


def to_bits(values: Tensor) -> np.ndarray:
    """Rounded to bfloat16, whose bits NumPy has as uint16."""
    return values.to(torch.bfloat16).cpu().contiguous().view(torch.int16).numpy().view(np.uint16)


def to_tensor(values: np.ndarray, column: Column) -> Tensor:
    """Stored values as a tensor of the column's own type; no copy."""
    if column.dtype == BFLOAT16:
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)
