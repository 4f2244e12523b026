"""The image cells of a table: where the image lies, and its bytes, of a regular file of bounded size."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from urllib.parse import unquote

from dataset.cells import LONGEST_SHOWN
from model.refusal import Code, Refusal

WINDOWS = re.compile(r"/?[A-Za-z]:[\\/]|\\\\")
FILE_URL = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>.*)", re.IGNORECASE | re.DOTALL)
ELSEWHERE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://|data:", re.IGNORECASE)


def place_of(cell: object, root: Path) -> bytes | Path | None:
    """Bytes, a path, or Hugging Face's {bytes, path}; None if there is no image.

    Args:
        root: what a relative path starts from.
    Raises:
        Refusal: ROW_UNUSABLE, or IMG_UNREADABLE for a URL or a path that this machine cannot have.
    """
    if isinstance(cell, dict):
        if not cell.keys() & {"bytes", "path"}:
            raise Refusal(Code.ROW_UNUSABLE, f"image has the fields {', '.join(cell)}, expected bytes or path")
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell in ("", b""):
        return None
    if isinstance(cell, str):
        return _path(cell.strip(), root) if cell.strip() else None
    if not isinstance(cell, bytes):
        raise Refusal(Code.ROW_UNUSABLE, f"image is {type(cell).__name__}, expected a path or bytes")
    return cell


def read_image(image: bytes | Path | None, most: int, inside: Path | None = None) -> bytes:
    """The encoded image, empty where there is none.

    Args:
        most: bytes that are accepted; a larger file is not read.
        inside: the folder that files must lie in, links followed; None: anywhere.
    Raises:
        Refusal: IMG_UNREADABLE, IMG_EMPTY or IMG_TOO_MANY_BYTES.
    """
    try:
        data = _read(image, most, inside) if isinstance(image, Path) else image or b""
    except OSError as error:
        hint = "; folders are parted by /" if "\\" in str(image) else ""
        raise Refusal(Code.IMG_UNREADABLE, f"{image}: {error.strerror}{hint}") from None  # type: ignore[str-bytes-safe]
    _check_size(len(data), most)
    return data


def _path(text: str, root: Path) -> Path:
    url = FILE_URL.fullmatch(text)
    if url:
        if (url["host"] or "").lower() not in ("", "localhost"):
            raise _unusable(text, "a file of another machine; copy it here")
        text = unquote(url["path"])
    elsewhere = ELSEWHERE.match(text)
    if elsewhere:
        raise _unusable(
            text, "images are read from files only; download them and give their paths, or a table of bytes"
        )
    if WINDOWS.match(text):
        raise _unusable(text, "a path of Windows; write it relative to --image-root, with / between folders")
    if "\0" in text:
        raise _unusable(text, "a path cannot hold NUL")
    return root / text


def _unusable(cell: str, what: str) -> Refusal:
    shown = cell if len(cell) <= LONGEST_SHOWN else f"{cell[:LONGEST_SHOWN]}…"
    return Refusal(Code.IMG_UNREADABLE, f"image {shown!r}: {what}")


def _read(path: Path, most: int, inside: Path | None) -> bytes:
    if inside is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(inside)):
        raise Refusal(
            Code.IMG_UNREADABLE,
            f"{path}: not inside {inside}; name another --image-root, or read it with --allow-outside",
        )
    state = os.stat(path)
    if not stat.S_ISREG(state.st_mode):
        kind = "Is a directory" if stat.S_ISDIR(state.st_mode) else "a device, pipe or socket"
        raise Refusal(Code.IMG_UNREADABLE, f"{path}: {kind}, expected a regular file")
    _check_size(state.st_size, most)
    # Not blocking, should a pipe have taken the file's place since.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        data = file.read(most + 1)
    if not data:
        raise Refusal(Code.IMG_EMPTY, f"{path}: the image has 0 bytes")
    return data


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Refusal(Code.IMG_TOO_MANY_BYTES, f"{size} bytes, at most {most} are accepted")
