"""From a table to a bundle, as one call: what `cma-clip fit` does, for a notebook or a program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def fit(
    table: Path | str | pa.Table | Any,
    output: Path | str,
    *,
    tasks: Sequence[str] = (),
    export: bool = False,
    **options: Any,
) -> Path:
    """Learn the labels of a table; returns the bundle, for `model.bundle.load_bundle`.

    Called again after it was stopped, it goes on; where it has finished, it returns at once.

    Args:
        table: a file, a prepared data set, or a table of pyarrow or pandas, which is kept as OUTPUT.parquet.
        output: directory of all that is made.
        tasks: columns of labels, `[NAME=]COLUMN[:KIND[:SEPARATOR]]`; none: those that look like labels.
        export: also build an engine.
        options: others of `cma-clip fit`: `image="photo"`, `minutes=20`, `overwrite=True`.
    Raises:
        Stopped, ValueError, Failure: as train.fit.__main__.fit_catalog.
    """
    from train.fit.__main__ import fit_catalog  # it imports torch and DeepSpeed's launcher

    output = Path(output)
    if not isinstance(table, Path | str):
        table = _kept(table, output)
        options.setdefault("image_root", ".")
    words = [str(table), "--output", str(output), *(word for task in tasks for word in ("--task", task))]
    for name, value in ({"no_export": not export} | options).items():
        option = f"--{name.replace('_', '-')}"
        if value is not False and value is not None:
            words += [option] if value is True else [option, str(value)]
    fit_catalog(words)
    return output / "bundle"


def _kept(table: Any, output: Path) -> Path:
    """A table in memory as a file; one that is there and equal stays, so that its work goes on."""
    table = table if isinstance(table, pa.Table) else pa.Table.from_pandas(table, preserve_index=False)
    path = output.with_name(f"{output.name}.parquet")
    if not path.exists() or not pq.read_table(path).equals(table):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    return path
