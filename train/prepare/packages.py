"""Data sets out of packages, Debian's or npm's: found, or downloaded without root into a cache."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from cma_clip.files import new_directory

log = logging.getLogger(__name__)

COMMAND_SECONDS = 900


def cache_directory(name: str) -> Path:
    """Where a download stays for the next run."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cma-clip" / name


def find(
    title: str, places: Sequence[Path], names: Sequence[str], ways: Sequence[Callable[[Path], Path]], cure: str
) -> Path:
    """The folder that holds all of `names`: one of `places`, of which the last is the cache, filled in several ways.

    Args:
        ways: each downloads into the given directory and says where the names lie then.
        cure: what to do where all of them fail.
    Raises:
        ValueError: they do.
    """
    *_, cache = places
    for folder in places:
        if all((folder / name).exists() for name in names):
            log.info("%s: found in %s", title, folder)
            return folder
    for fetch in ways:
        log.info("%s: downloading (%s)", title, fetch.__name__.removeprefix("from_"))
        try:
            with tempfile.TemporaryDirectory() as work:
                found = fetch(Path(work))
                with new_directory(cache) as filled:
                    for name in names:
                        _copy(found / name, filled / name)
            log.info("%s: stored in %s", title, cache)
            return cache
        except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            why = reason(error)
            log.warning("%s: %s failed: %s", title, fetch.__name__.removeprefix("from_"), why)
    looked = " nor in ".join(map(str, places))
    raise ValueError(f"{title} is not in {looked} and could not be downloaded ({why}); {cure}")


def _copy(source: Path, target: Path) -> None:
    """A file, or a tree whose links stay links."""
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copyfile(source, target)


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


def pack(package: str, work: Path) -> Path:
    """Download an npm package, `name@version`; none of its code is run. Returns the .tgz in `work`.

    Raises:
        OSError, subprocess.SubprocessError: there is no npm, or it failed.
    """
    _run(["npm", "pack", "--silent", "--ignore-scripts", package], work)
    return work / packed_name(package)


def packed_name(package: str) -> str:
    """The file that `npm pack` makes: `@scope/name@1.2.3` is in scope-name-1.2.3.tgz."""
    name, version = package.rsplit("@", 1)
    return f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"


def reason(error: Exception) -> str:
    """The last line of what a command said, else of the error."""
    said = (getattr(error, "stderr", None) or str(error)).strip()
    return said.splitlines()[-1] if said else type(error).__name__


def _run(command: list[str], work: Path) -> None:
    subprocess.run(command, cwd=work, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS)
