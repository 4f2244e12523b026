"""Data sets out of Debian's packages, downloaded and unpacked without root, and the cache they stay in."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

COMMAND_SECONDS = 900


def cache_directory(name: str) -> Path:
    """Where a download stays for the next run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cma-clip" / name


def unpack(packages: Sequence[str], work: Path) -> Path:
    """Download and unpack packages in `work`; needs no root, only a package list. Returns the tree, as at `/`.

    Raises:
        OSError, subprocess.SubprocessError: a command is missing or failed.
    """
    download = ["apt-get", "download", *packages]
    try:
        _run(download, work)
    except subprocess.CalledProcessError:
        if os.geteuid() != 0:
            raise
        log.info("apt-get knows no %s yet, updating its package list", ", ".join(packages))
        _run(["apt-get", "update"], work)
        _run(download, work)
    for package in sorted(work.glob("*.deb")):
        _run(["dpkg", "-x", package.name, "tree"], work)
    return work / "tree"


def reason(error: Exception) -> str:
    """The last line of what a command said, else of the error."""
    said = (getattr(error, "stderr", None) or str(error)).strip()
    return said.splitlines()[-1] if said else type(error).__name__


def _run(command: list[str], work: Path) -> None:
    subprocess.run(command, cwd=work, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
