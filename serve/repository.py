"""The sets of a model repository on disk: the one that is served lies at its root, others wait aside.

A server without model control loads every folder of the root, so what is not served lies in cma_clip/aside, a folder
that is no version and that Triton passes over. Sets move part by part, each by a rename, and each part can be loaded by
itself: killed at any moment, the root holds one whole set, and the ensemble names it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from cma_clip.files import clear_interrupted, new_file, to_disk
from serve.runtimes import RUNTIMES
from serve.sets import ENSEMBLE, STEP_NAME, STEPS, Served, StepSet, ensemble_config

PLAIN = ""
FAR_AHEAD_NS = 4_102_444_800 * 10**9  # the year 2100


def engine_files() -> list[str]:
    return sorted({row.file for row in RUNTIMES.values()})


class Repository:
    """A model repository; sets are named by their suffix (serve.sets)."""

    def __init__(self, root: Path) -> None:
        self.root, self.aside = root, root / ENSEMBLE / "aside"

    def served(self) -> Served:
        return Served.read(self.root)

    def steps(self, suffix: str) -> StepSet:
        """The set as it lies at the root."""
        return StepSet(self.root, suffix)

    def place_aside(self, suffix: str) -> Path:
        return self.aside / f"set{suffix}"

    def bundle(self, suffix: str) -> Path:
        """A set's bundle.json, wherever it lies."""
        name = self.steps(suffix).bundle.name
        return next((place / name for place in self._places(suffix) if (place / name).is_file()), self.root / name)

    def template(self) -> Path:
        """Where the plain steps lie, which each new set is a copy of: at the root or aside."""
        aside = self.place_aside(PLAIN)
        return aside if (aside / "engine").is_dir() else self.root

    def is_whole(self, suffix: str) -> bool:
        """All parts are there, wherever; of the plain set, an engine file too: as a template it has none."""
        engines = [place / "engine/1" / name for place in self._places(PLAIN) for name in engine_files()]
        parts = all(any((place / part).exists() for place in self._places(suffix)) for part in self._parts(suffix))
        return parts and (suffix != PLAIN or any(engine.is_file() for engine in engines))

    def found(self) -> set[str]:
        """Suffixes of all sets of which a part lies somewhere."""
        names = [path.name for path in self.root.iterdir() if path.is_dir()]
        at_root = {match[2] for name in names if (match := STEP_NAME.fullmatch(name))}
        files = {path.stem.removeprefix("bundle") for path in self.root.glob("bundle*.json")}
        return at_root | files | {path.name.removeprefix("set") for path in self.aside.glob("set*")}

    def place(self, suffix: str) -> None:
        """Bring a set to the root: its files, then its steps, which read them."""
        self._move(suffix, self.place_aside(suffix), self.root, self._parts(suffix))

    def put_aside(self, suffix: str) -> None:
        """Take a set from the root, which the ensemble must not name."""
        assert self.served().current != suffix
        self.place_aside(suffix).mkdir(parents=True, exist_ok=True)
        self._move(suffix, self.root, self.place_aside(suffix), reversed(self._parts(suffix)))

    def remove(self, suffix: str) -> None:
        """Delete a set; of the plain one the steps stay aside, as new sets are copies of them."""
        self.put_aside(suffix)
        place = self.place_aside(suffix)
        if suffix == PLAIN:
            for name in engine_files():
                (place / "engine/1" / name).unlink(missing_ok=True)
                (place / "engine/1" / f"{name}.json").unlink(missing_ok=True)
            return
        gone = self.aside / f".{place.name}.{os.getpid()}.partial"
        os.replace(place, gone)
        shutil.rmtree(gone)

    def switch(self, served: Served) -> None:
        """Name these sets in the ensemble's configuration, by one rename.

        It becomes younger than all beside it: Triton would not load it again otherwise.
        """
        path = ensemble_config(self.root)
        inside = [entry.stat() for entry in (path.parent, *path.parent.rglob("*"))]  # dated ahead where sealed
        youngest = max(max(entry.st_mtime_ns, entry.st_ctime_ns) for entry in inside)
        text = served.write(path.read_text())
        with new_file(path) as partial:
            partial.write_text(text)
            partial.chmod(path.stat().st_mode)
            now = max(partial.stat().st_mtime_ns, youngest + 1)
            os.utime(partial, ns=(now, now))

    def unknown(self) -> set[str]:
        """Published sets that are neither served nor the one before: a kill left them."""
        return self.found() - {*self.served(), PLAIN}

    def tidy(self) -> None:
        """Finish what was killed: half-made and unknown sets go, and what is not served lies aside."""
        for folder in (self.root / ENSEMBLE, self.aside):
            clear_interrupted(folder)
        for suffix in self.unknown():
            self.remove(suffix)
        current, previous = self.served()
        if previous not in (None, PLAIN):
            self.put_aside(previous)
        if current != PLAIN:
            (self.put_aside if previous == PLAIN else self.remove)(PLAIN)

    def serve_plain(self) -> None:
        """Name the plain set, which must be whole, and drop all others; nothing where none was published."""
        if self.served() == Served(PLAIN) and not self.aside.is_dir():
            return
        self.place(PLAIN)
        self.switch(Served(PLAIN))
        self.tidy()
        shutil.rmtree(self.aside)

    def seal(self, suffix: str) -> None:
        """Let a set look unchanged to a server that loads it from now on: date its configurations far ahead.

        Triton loads a step again, for seconds, where the youngest time in its folder has grown since; python's bytecode
        and each move of the folder let it grow.
        """
        for place, step in itertools.product(self._places(suffix), STEPS):
            config = place / self.steps(suffix).name(step) / "config.pbtxt"
            if config.is_file():
                os.utime(config, ns=(FAR_AHEAD_NS, FAR_AHEAD_NS))

    def _move(self, suffix: str, source: Path, target: Path, parts: Iterable[str]) -> None:
        for part in parts:
            if (source / part).exists() and not (target / part).exists():
                os.replace(source / part, target / part)
        for folder in {self.root, self.place_aside(suffix)}:
            if folder.is_dir():
                to_disk(folder)

    def _parts(self, suffix: str) -> list[str]:
        steps = StepSet(self.root, suffix)
        return [steps.bundle.name, steps.tokenizer.name, *(steps.name(step) for step in STEPS)]

    def _places(self, suffix: str) -> tuple[Path, Path]:
        return self.root, self.place_aside(suffix)
