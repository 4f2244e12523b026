"""Where the drawings are: a folder, Debian's packages, or a download of these."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cma_clip.files import new_directory
from train.prepare import debian

log = logging.getLogger(__name__)

PACKAGES = ("openclipart-png", "openclipart-svg")
PACKAGED = Path("/usr/share/openclipart")
KINDS = ("png", "svg")


@dataclass(frozen=True)
class Drawing:
    """One drawing. `row` counts from 1; `id` is its path below `svg` and `png`, without the ending."""

    row: int
    id: str
    svg: Path
    png: Path


def list_drawings(source: Path) -> list[Drawing]:
    """Every SVG below `source/svg`, in the order of the ids.

    Raises:
        ValueError: the folder is not laid out like Debian's, or holds no SVG.
    """
    missing = [kind for kind in KINDS if not (source / kind).is_dir()]
    if missing:
        raise ValueError(f"{source}: no folder {' nor '.join(missing)} in it; --source wants one with svg and png")
    ids = sorted(path.relative_to(source / "svg").with_suffix("").as_posix() for path in source.glob("svg/**/*.svg"))
    if not ids:
        raise ValueError(f"{source / 'svg'}: no .svg file in it; --source wants the tree of openclipart-svg")
    return [Drawing(row, id, source / f"svg/{id}.svg", source / f"png/{id}.png") for row, id in enumerate(ids, 1)]


def find() -> Path:
    """The folder with `svg` and `png`, downloaded into the cache if no usual place has them.

    Raises:
        ValueError: it is nowhere and cannot be downloaded.
    """
    cache = cache_directory()
    for folder in (PACKAGED, cache):
        if all((folder / kind).is_dir() for kind in KINDS):
            log.info("Open Clip Art: found in %s", folder)
            return folder
    try:
        download(cache)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(
            f"Open Clip Art is neither in {PACKAGED} nor in {cache} and could not be downloaded"
            f" ({debian.reason(error)}); install {' and '.join(PACKAGES)}, or unpack both with"
            " dpkg -x and pass --source TREE/usr/share/openclipart"
        ) from None
    log.info("Open Clip Art: stored in %s", cache)
    return cache


def cache_directory() -> Path:
    """Where the download stays for the next run."""
    return debian.cache_directory("openclipart")


def download(cache: Path) -> None:
    """Fetch and unpack the Debian packages into `cache`, 156 MB; needs no root, only a package list.

    Raises:
        OSError, subprocess.SubprocessError: a command is missing or failed.
    """
    log.info("Open Clip Art: downloading %s", " and ".join(PACKAGES))
    with tempfile.TemporaryDirectory() as work:
        unpacked = debian.unpack(PACKAGES, Path(work)) / PACKAGED.relative_to("/")
        with new_directory(cache) as filled:
            for kind in KINDS:
                # Copies of a drawing are links in the packages and stay so.
                shutil.copytree(unpacked / kind, filled / kind, symlinks=True)
