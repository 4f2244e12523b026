"""One protocol for work that may be stopped, by Ctrl-C or kill -9, and goes on when its command is run again.

Until OUTPUT appears in one step, all of the work lies in OUTPUT.partial: `lock`, which the process at work holds;
`settings.json`, which says what the work depends on; `parts/`, the finished pieces, each of which appears in one step.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cma_clip.files import write_atomically

log = logging.getLogger(__name__)

LOCK, SETTINGS, PARTS = "lock", "settings.json", "parts"


def beside(output: Path, word: str) -> Path:
    """`OUTPUT.word`."""
    return output.with_name(f"{output.name}.{word}")


def is_under_way(output: Path) -> bool:
    """Whether a run was begun that has not ended; what a kill at its very end left is removed."""
    _clear_done(output)
    return beside(output, "partial").exists()


@contextmanager
def work_on(output: Path, settings: Mapping[str, Any], clear: bool) -> Iterator[Path]:
    """OUTPUT.partial for this process alone, with the parts that an earlier run of the same settings left.

    It is removed when the block ends well, or ends badly with no part finished; else it stays for the next run.

    Args:
        settings: all that the parts depend on, as JSON can hold it.
        clear: parts of other settings are thrown away; otherwise they are a fault, and parts must say themselves which
            settings they are of, should the note of them be damaged.
    Raises:
        ValueError: another process is at work in it, or it was begun with other settings.
    """
    _clear_done(output)
    partial = beside(output, "partial")
    partial.mkdir(parents=True, exist_ok=True)
    with _alone_in(partial):
        _settle(partial, json.loads(json.dumps(settings)), clear)
        try:
            yield partial
        except BaseException:
            if any((partial / PARTS).glob("*")):
                log.warning("what is finished stays in %s", partial)
            else:
                _remove(partial)
            raise
        os.replace(partial, beside(output, "done"))
        _clear_done(output)


@contextmanager
def _alone_in(partial: Path) -> Iterator[None]:
    """The system gives the lock back when the process ends, however it ends."""
    try:
        with FileLock(partial / LOCK, timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{partial}: another run is at work in it; wait for it or stop it") from None


def _settle(partial: Path, settings: dict[str, Any], clear: bool) -> None:
    file = partial / SETTINGS
    left = _read_settings(file)
    has_parts = any((partial / PARTS).glob("*"))
    if left == settings and (partial / PARTS).is_dir():
        return
    if left and not clear:
        other = ", ".join(name for name in settings if left.get(name) != settings[name])
        raise ValueError(f"{partial}: begun with other settings ({other}); --overwrite begins anew")
    if has_parts and not left:
        what = "all is made anew" if clear else "written anew; a part that is not of these settings counts for nothing"
        log.warning("%s: missing or damaged; %s", file, what)
    if left or clear or not has_parts:
        for path in partial.iterdir():
            if path.name != LOCK:
                log.info("%s: left by a run with other settings; starting anew", path)
                _remove(path)
        (partial / PARTS).mkdir()
    write_atomically(file, json.dumps(settings))


def _read_settings(file: Path) -> dict[str, Any]:
    """Empty where they are missing or damaged."""
    try:
        left = json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return left if isinstance(left, dict) else {}


def _clear_done(output: Path) -> None:
    shutil.rmtree(beside(output, "done"), ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
