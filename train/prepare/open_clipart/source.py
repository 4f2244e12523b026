"""Where the drawings are: a folder, Debian's packages, or a download of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.prepare import packages

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
    """The folder with `svg` and `png`, downloaded into the cache, 156 MB, if no usual place has them.

    Raises:
        ValueError: it is nowhere and cannot be downloaded.
    """
    places = (PACKAGED, packages.cache_directory("openclipart"))
    cure = f"install {' and '.join(PACKAGES)}, or unpack both with dpkg -x and pass --source TREE/usr/share/openclipart"
    return packages.find("Open Clip Art", places, KINDS, (from_debian,), cure)


def from_debian(work: Path) -> Path:
    """The packages, unpacked in `work`; copies of a drawing are links in them."""
    return packages.unpack(PACKAGES, work) / PACKAGED.relative_to("/")
