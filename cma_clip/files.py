"""Write beside, then rename: nobody ever sees half a file or half a directory. And what a file holds, in short."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace the file `path` by `content` in one step."""
    with new_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a file to write; it takes the place of `path` in one step when the block ends well."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        to_disk(partial)
        os.replace(partial, path)
        to_disk(path.parent)
    except OSError as error:
        raise about(path, error) from None
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Give an empty directory to fill; it takes the place of `path` when the block ends well.

    If the block raises, `path` stays as it was and nothing is left beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        for inside in partial.rglob("*"):
            to_disk(inside)
        to_disk(partial)
        put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(directory: Path, path: Path) -> None:
    """`directory` becomes `path`; what was there before goes."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.replace(path, old)
    os.replace(directory, path)
    to_disk(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def clear_interrupted(directory: Path) -> None:
    """What the functions above left in it when they were killed goes; what they had just put aside comes back.

    No other process may be writing there.
    """
    for old in directory.glob(".*.old"):
        name = old.name[1:].rsplit(".", 2)[0]
        if (directory / name).exists():
            _remove(old)
        else:
            os.replace(old, directory / name)
    for partial in directory.glob(".*.partial"):
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def about(path: Path, error: OSError) -> OSError:
    """The same error with the file in it; a write that fails does not say where, unlike an open."""
    return error if error.filename or not error.errno else OSError(error.errno, error.strerror, str(path))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_disk(path: Path) -> None:
    """A file's content, or which files a folder holds. A rename may reach the disk before the content does: after a
    power cut the file would be empty, or not there.
    """
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
