"""What was found of the fused kernels on this machine's GPUs, kept in ~/.cache/cma-clip or in XDG_CACHE_HOME."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cma_clip.files import write_atomically
from cma_clip.settings import StrictModel, read_json


class Verdict(StrictModel):
    """On the fused kernels, which are taken where they are faster; `reason` is for people."""

    kernels: Literal["faster", "slower", "wrong", "failing", "unmeasured"]
    reason: str


class Verdicts(StrictModel):
    """kernels.json: what GPU, versions and case a verdict is on -> the verdict."""

    verdicts: dict[str, Verdict] = {}

    def recall(self, key: str, prefix: bool = False) -> Verdict | None:
        """The verdict on `key`, from here or the file; with `prefix` the worst of those that begin with it."""
        known = _read().verdicts | self.verdicts
        found = [known[name] for name in known if name == key or (prefix and name.startswith(key))]
        return next((verdict for verdict in found if verdict.kernels != "faster"), found[0] if found else None)

    def keep(self, key: str, verdict: Verdict) -> Verdict:
        """Here and in the file; where another process was first, its verdict is kept and returned."""
        known = {key: verdict} | _read().verdicts
        self.verdicts[key] = known[key]
        with suppress(OSError):  # it only costs the next process a measurement
            file().parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file(), Verdicts(verdicts=known).model_dump_json(indent=1) + "\n")
        return known[key]


def file() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "cma-clip/kernels.json")


def _read() -> Verdicts:
    """No verdict if the file is missing, damaged or not ours."""
    try:
        return read_json(Verdicts, file())
    except ValueError:
        return Verdicts()
