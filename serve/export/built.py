"""What a runtime's builder is asked for, and what it hands over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from model.bundle import Bundle
from serve.engines import Run


class Order(NamedTuple):
    """An engine file to build.

    Attributes:
        path: the file to write; in the folder above lie the engine's configurations.
        runtime, precision: as in the table of runtimes.
        data: data set directory, None where there is none.
    """

    bundle: Bundle
    path: Path
    runtime: str
    precision: str
    data: Path | None = None


class Candidate(NamedTuple):
    """An engine to be compared with torch before its file is published.

    Attributes:
        name: what the report calls it.
        precision: of its matrix products.
        run: the engine.
        lengths: title lengths that it takes; () is any.
        where: names the first layer that goes wrong; asked for only if the comparison fails.
    """

    name: str
    precision: str
    run: Run
    lengths: Sequence[int] = ()
    where: Callable[[], str] | None = None


class Target(NamedTuple):
    """Where an engine file runs, as in EngineStamp; by default anywhere."""

    versions: dict[str, str] = {}
    gpu: str | None = None
    compute_capability: str | None = None


class Built(NamedTuple):
    """An engine file that has been written; the last candidate will serve, so a data set's products go through it."""

    precision: str
    candidates: list[Candidate]
    target: Target = Target()


# Raises ValueError where this machine, the bundle or the data set does not allow it.
Builder = Callable[[Order], Built]
