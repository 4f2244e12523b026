"""Open Clip Art: what is read of an SVG, what is made of a PNG, and which drawings count as alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
from cost import costs_less_than
from open_clipart_files import drawn, svg
from PIL import Image

from train.prepare import alike
from train.prepare.alike import Joined, groups, near_duplicates, series_of, splits_of, thinned
from train.prepare.drawings import COLORS, in_square, look_at, main_color, trimmed
from train.prepare.open_clipart import metadata
from train.prepare.open_clipart.metadata import Metadata, read_metadata, without_names

BOMB = (
    b"""<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">%s]><svg xmlns="http://www.w3.org/2000/svg"><title>&j;</title></svg>"""
    % b"".join(b'<!ENTITY %c "%s">' % (name, b"&%c;" % (name - 1) * 10) for name in b"bcdefghij")
)


@pytest.mark.parametrize("cc", ["http://web.resource.org/cc/", "http://creativecommons.org/ns#"])
def test_title_and_keywords_are_the_works_own(cc):
    content = svg(" A  Pear\n & apple ", ("Food", "", "fruit", "food", "NICU BUCULEI"), cc=cc)
    assert read_metadata(content) == Metadata("A Pear & apple", ["food", "fruit"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (svg(None, ()), Metadata("", None)),
        (svg("", ("  ",)), Metadata("", None)),
        (b"<svg/>", Metadata("", None)),
        (svg("Pêra").decode().replace("UTF-8", "ISO-8859-1").encode("latin-1"), Metadata("Pêra", ["fruit"])),
    ],
)
def test_what_is_missing_stays_missing(content, expected):
    assert read_metadata(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (svg()[:-5], "not well-formed"),
        (b"", "not well-formed"),
        (b"\xff\xfe\x00", "not well-formed"),
        (b'<?xml version="1.0" encoding="klingon"?><svg/>', "not well-formed"),
        (b"<html/>", "begins with <html>"),
        (b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/hostname">]><svg>&x;</svg>', "not well-formed"),
        (BOMB, "not well-formed"),
    ],
)
def test_a_broken_or_hostile_svg_is_refused_at_once(content, expected):
    def refused() -> None:
        with pytest.raises(ValueError, match=expected):
            read_metadata(content)

    assert costs_less_than(5, refused)


def test_a_huge_svg_is_refused_unread(monkeypatch):
    monkeypatch.setattr(metadata, "MOST_BYTES", len(svg()))
    assert read_metadata(svg()).title == "A Pear"
    with pytest.raises(ValueError, match="more than"):
        read_metadata(svg() + b" ")


@pytest.mark.parametrize(
    ("title", "names", "expected"),
    [
        ("Clipart by Nicu Buculei - contour_chipmunk", {"Nicu Buculei"}, "contour_chipmunk"),
        ("SVG Gradient Collection by Alan Horkan, 2004.", {"Alan Horkan"}, "SVG Gradient Collection, 2004."),
        ("Bibliografia Francesco Rollandin", {"Architetto Francesco Rollandin"}, "Bibliografia"),
        ("nicu buculei", {"Nicu Buculei"}, ""),
        ("Green apple", {"Tom Green"}, "Green apple"),
        ("Aganson duck", {"ganson"}, "Aganson duck"),
        ("Duck by ganson", {"ganson", "G.(x"}, "Duck"),
        ("By the sea", {"CC", ""}, "By the sea"),
        ("Stop by day", set(), "Stop by day"),
    ],
)
def test_authors_are_taken_out_of_titles(title, names, expected):
    assert without_names(title, names) == expected


def test_the_second_of_writing_is_taken_out_of_titles():
    content = svg("Part of the Flat Icon Collection (Wed Aug 25 23:29:46 2004)")
    assert read_metadata(content).title == "Part of the Flat Icon Collection"


def painted(*parts: tuple[str | tuple[int, int, int], int]) -> Image.Image:
    """Columns of colours, one pixel wide each."""
    image = Image.new("RGB", (sum(width for _, width in parts), 8))
    left = 0
    for color, width in parts:
        image.paste(color, (left, 0, left + width, 8))
        left += width
    return image


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([("black", 3)], "black"),
        ([((128, 128, 128), 3)], "grey"),
        ([((200, 0, 0), 1), ("white", 9)], "red"),
        ([((250, 20, 60), 1)], "red"),
        ([((255, 140, 0), 1)], "orange"),
        ([((139, 69, 19), 1)], "brown"),
        ([((250, 240, 40), 1)], "yellow"),
        ([((30, 160, 40), 1)], "green"),
        ([((20, 60, 200), 1), ("black", 1), ((60, 120, 255), 1)], "blue"),
        ([((130, 20, 160), 1)], "purple"),
        ([((255, 105, 180), 1)], "purple"),
        ([("red", 5), ("blue", 5), ("white", 30)], "red"),
        ([("red", 4), ("blue", 3), ("lime", 3)], "mixed"),
        ([("white", 5)], None),
        ([((250, 250, 245), 5)], None),
        ([("white", 199), ("red", 1)], "red"),
        ([("white", 201), ("red", 1)], None),
    ],
)
def test_main_color_by_hand(parts, expected):
    assert main_color(painted(*parts)) == expected
    assert expected is None or expected in COLORS


def test_a_large_picture_has_the_color_of_its_lines_not_of_their_edges():
    lines = np.full((601, 900, 3), 255, np.uint8)
    lines[:, ::3] = 0
    assert main_color(Image.fromarray(lines)) == "black"


@pytest.mark.parametrize(
    ("size", "box"), [((30, 10), (0, 10, 32, 21)), ((1, 17), (15, 0, 17, 32)), ((5, 5), (0, 0, 32, 32))]
)
def test_the_whole_picture_is_in_the_middle_of_a_white_square(size, box):
    square = np.asarray(in_square(Image.new("RGB", size, "navy"), 32))
    expected = np.full((32, 32, 3), 255, np.uint8)
    left, top, right, bottom = box
    expected[top:bottom, left:right] = (0, 0, 128)
    np.testing.assert_array_equal(square, expected)


def test_white_margins_are_no_part_of_the_picture():
    page = Image.new("RGB", (70, 51), "white")
    page.paste(drawn(1), (40, 3))
    np.testing.assert_array_equal(np.asarray(trimmed(page)), np.asarray(drawn(1)))
    blank = Image.new("RGB", (9, 5), "white")
    assert trimmed(blank).size == (9, 5)
    assert look_at(png(page), 32).digest == look_at(png(drawn(1)), 32).digest != look_at(png(drawn(2)), 32).digest


def test_transparency_is_white():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (2, 2, 6, 6))
    picture = look_at(png(image), 32)
    assert picture.main_color == "red"
    np.testing.assert_array_equal(picture.thumbnail, np.full((16, 16, 3), (255, 0, 0)))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def are_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """The definition of a near-duplicate, written plainly."""
    a, b = one.ravel().astype(float), other.ravel().astype(float)
    return bool(np.sqrt(np.mean((a - b) ** 2)) <= 12 and np.corrcoef(a, b)[0, 1] >= 0.97)


def test_near_duplicates_are_those_of_the_definition(monkeypatch):
    rng = np.random.default_rng(0)
    base = rng.integers(30, 220, (5, 7, 5, 3))
    noise = rng.normal(0, 1, (40, 7, 5, 3)) * rng.uniform(0, 25, (40, 1, 1, 1))
    thumbnails = np.clip(base[rng.integers(0, 5, 40)] + noise, 0, 255).astype(np.uint8)
    faint = 255 - np.minimum(thumbnails[:10] // 20, 9)
    thumbnails = np.concatenate([thumbnails, faint])
    expected = {(i, j) for i in range(50) for j in range(i + 1, 50) if are_alike(thumbnails[i], thumbnails[j])}
    assert 10 < len(expected) < 200
    for block in (1, 7, 512):
        monkeypatch.setattr(alike, "BLOCK", block)
        assert set(near_duplicates(thumbnails)) == expected


def test_flat_pictures_are_like_nothing():
    assert list(near_duplicates(np.full((3, 4, 4, 3), 255, np.uint8))) == []


def test_groups_are_transitive_over_names_and_pictures():
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 250, (5, 16, 16, 3)).astype(np.uint8)
    # b_1 and b_2 are a series, b_2 and c look alike; e is in another folder than b.
    thumbnails = np.stack([*pictures[:3], pictures[2] + 2, pictures[3], pictures[4]]).astype(np.uint8)
    ids = ["x/a", "x/b_1", "x/b_2", "x/c", "x/d", "y/b_3"]
    assert groups(ids, thumbnails) == ["x/a", "x/b_1", "x/b_1", "x/b_1", "x/d", "y/b_3"]


@pytest.mark.parametrize(
    ("id", "series"),
    [
        ("f/apple_02", "f/apple"),
        ("f/apple1", "f/apple"),
        ("f/a-1-2", "f/a-1"),
        ("f/007", "f/007"),
        ("f2/pear", "f2/pear"),
    ],
)
def test_series_of_names(id, series):
    assert series_of(id) == series


def test_joined_sets_are_known_by_their_smallest():
    joined = Joined(7)
    for one, other in ((5, 6), (3, 5), (2, 1), (6, 1)):
        joined.join(one, other)
    assert [joined.first(number) for number in range(7)] == [0, 1, 1, 1, 4, 1, 1]


def test_thinning_leaves_a_hundred_alone_and_eight_of_more():
    hundred = [f"a/star_{number}" for number in range(100)]
    more = [f"b/{number}pt{number}" for number in range(101)]
    chosen = thinned([*hundred, *more, "c/one"], seed=0)
    assert [id for id in chosen if id[0] != "b"] == [*hundred, "c/one"]
    assert len([id for id in chosen if id[0] == "b"]) == 8
    assert thinned(more[::-1], seed=0) == [id for id in more[::-1] if id in chosen]
    assert thinned(more, seed=1) != thinned(more, seed=0)


def test_groups_are_dealt_out_whole_and_the_largest_first():
    # Folder f: groups of 14 and six of 1: 14 of 20 is the 70 % of train, 4 go to test and 2 to validation.
    firsts = ["big"] * 14 + [f"one{n}" for n in range(6)]
    for seed in range(3):
        splits = splits_of(["f"] * 20, firsts, seed)
        assert set(splits[:14]) == {"train"}
        assert sorted(splits[14:]) == ["test"] * 4 + ["validation"] * 2
    # A group of two folders belongs to that of its first drawing.
    assert splits_of(["f", "g", "g"], ["one", "one", "two"], 0) == ["train", "train", "train"]
