"""Image cells: what they may name, and that only regular files of bounded size are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from dataset.image_cells import place_of, read_image
from model.refusal import Refusal

MOST = 1000


def code_of(cell: object, root: Path, inside: Path | None = None) -> str:
    """The refusal as text, or the bytes that were read as text."""
    try:
        return read_image(place_of(cell, root), MOST, inside).decode()
    except Refusal as refusal:
        return str(refusal)


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "in/img").mkdir(parents=True)
    (tmp_path / "in/img/a b.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "in"


@pytest.mark.parametrize(
    "cell",
    [
        "img/a b.jpg",
        " img/a b.jpg ",
        "{root}/img/a b.jpg",
        "file://{root}/img/a%20b.jpg",
        "FILE:{root}/img/a b.jpg",
        "file://localhost{root}/img/a%20b.jpg",
        "img/../img/a b.jpg",
    ],
)
def test_paths_and_file_urls_are_read(root, cell):
    assert code_of(cell.format(root=root), root, inside=root) == "picture"


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("https://shop.example/a.jpg", "images are read from files only; download them"),
        ("HTTP://shop.example/a.jpg", "images are read from files only; download them"),
        ("s3://bucket/a.jpg", "images are read from files only; download them"),
        ("data:image/jpeg;base64,AAAA", "images are read from files only"),
        ("file://other/a.jpg", "a file of another machine"),
        ("C:\\photos\\a.jpg", "a path of Windows; write it relative to --image-root"),
        ("c:/photos/a.jpg", "a path of Windows"),
        ("\\\\server\\photos\\a.jpg", "a path of Windows"),
        ("file:///C:/photos/a.jpg", "a path of Windows"),
        ("img/a\0.jpg", "a path cannot hold NUL"),
        ("file:///img/a%00.jpg", "a path cannot hold NUL"),
        ("img\\a.jpg", "No such file or directory; folders are parted by /"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_what_is_no_path_here_is_one_line_that_says_what_to_do(root, cell, problem):
    said = code_of(cell, root)
    assert said.startswith("IMG_UNREADABLE: ") and problem in said and "\0" not in said


def test_a_struct_needs_bytes_or_a_path(root):
    assert code_of({"bytes": b"1", "path": None}, root) == "1"
    assert code_of({"bytes": None, "path": "img/a b.jpg"}, root) == "picture"
    assert place_of({"bytes": None, "path": None}, root) is None
    assert code_of({"url": "x"}, root) == "ROW_UNUSABLE: image has the fields url, expected bytes or path"


def test_only_regular_files_are_read_up_to_the_limit(root):
    os.mkfifo(root / "pipe")
    with (root / "large").open("wb") as file:
        file.truncate(64 << 20)
    (root / "empty.jpg").touch()
    (root / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        assert (
            code_of("socket", root)
            == f"IMG_UNREADABLE: {root}/socket: a device, pipe or socket, expected a regular file"
        )
    assert "a device, pipe or socket" in code_of("/dev/zero", root)
    assert "a device, pipe or socket" in code_of("pipe", root)
    assert "Is a directory" in code_of("img", root)
    assert "Too many levels" in code_of("loop", root) and "No such file" in code_of("none", root)
    assert code_of("large", root) == f"IMG_TOO_MANY_BYTES: {64 << 20} bytes, at most 1000 are accepted"
    assert code_of(b"x" * 1001, root) == "IMG_TOO_MANY_BYTES: 1001 bytes, at most 1000 are accepted"
    assert code_of("empty.jpg", root) == f"IMG_EMPTY: {root}/empty.jpg: the image has 0 bytes"


def test_nothing_outside_the_folder_is_read_unless_allowed(root):
    (root / "link").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent)
    (root / "within").symlink_to(root / "img")
    outside = [
        "../secret",
        f"{root}/../secret",
        f"{root.parent}/secret",
        "link",
        "folder/secret",
        f"file://{root.parent}/secret",
    ]
    for cell in (*outside, "../none"):
        assert f"not inside {root}; name another --image-root, or read it with --allow-outside" in code_of(
            cell, root, root
        )
    assert {code_of(cell, root) for cell in outside} == {"secret"}
    assert code_of("within/a b.jpg", root, root) == "picture"
    (root.parent / "linked").symlink_to(root)
    assert code_of("img/a b.jpg", root.parent / "linked", root.parent / "linked") == "picture"
