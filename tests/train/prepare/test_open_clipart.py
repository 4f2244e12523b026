"""Open Clip Art: the command, its labels, what is left out, and splits that share no near-duplicate."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import pytest
from data_set_files import all_rows, contents, rows_of
from open_clipart_files import BIRDS, FRUITS, drawn, letters, svg, write_drawing, write_tree
from PIL import Image

from dataset.format import DatasetInfo
from train.prepare import open_clipart
from train.prepare.__main__ import main
from train.prepare.open_clipart import source as where


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return write_tree(tmp_path_factory.mktemp("openclipart"))


@pytest.fixture(scope="module")
def data_set(tree, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "clipart"
    assert prepare(tree, output) == 0
    return output


@pytest.fixture
def own_tree(tmp_path) -> Path:
    """One that a test may add to or damage."""
    return write_tree(tmp_path / "tree")


def prepare(source: Path, output: Path, *more: str) -> int:
    return main(["open_clipart", "--source", str(source), "--output", str(output), "--image-size", "32", *more])


def split_of(directory: Path) -> dict[str, str]:
    return {row["id"]: name for name in DatasetInfo.read(directory).splits for row in rows_of(directory, name)}


def refused(capsys) -> str:
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    return last


def test_only_full_folders_are_categories(data_set):
    category, keywords, color = DatasetInfo.read(data_set).tasks
    assert category.labels == ["animals/birds", "food/fruit"]
    assert (keywords.kind, color.kind) == ("multi_label", "single_label")
    rows = all_rows(data_set)
    assert len(rows) == FRUITS + BIRDS + 5 + 42
    counted = Counter(row["category"] for row in rows.values())
    assert counted == {"food/fruit": FRUITS, "animals/birds": BIRDS, None: 5 + 42}
    assert rows["tools/a"]["category"] is None and rows["unsorted/a"]["category"] is None


def test_titles_and_keywords_are_the_authors_own(data_set):
    row = all_rows(data_set)["animals/birds/bc"]
    assert (row["title"], row["keywords"]) == ("birds bc", ["icon", "birds"])
    # Most frequent first, then by name; "unsorted" and "hash" say nothing, "icons" is "icon".
    assert DatasetInfo.read(data_set).tasks[1].labels == ["icon", "fruit", "birds", "tool"]


def test_keywords_that_are_no_labels_leave_an_empty_list_and_none_at_all_null(own_tree, tmp_path):
    write_drawing(own_tree, "tools/none", drawn(5001), svg(keywords=("", " ")))
    write_drawing(own_tree, "tools/useless", drawn(5002), svg(keywords=("hash", "Clip_Art")))
    write_drawing(own_tree, "tools/author", drawn(5003), svg(keywords=("nicu buculei",)))
    assert prepare(own_tree, tmp_path / "out") == 0
    rows = all_rows(tmp_path / "out")
    assert {name: rows[f"tools/{name}"]["keywords"] for name in ("none", "useless", "author")} == {
        "none": None,
        "useless": [],
        "author": None,
    }


def test_the_rarest_keywords_are_no_labels(own_tree, tmp_path):
    for number in range(30):
        words = tuple(f"word{n:02}" for n in range(number + 1))
        write_drawing(own_tree, f"tools/x{letters(number)}", drawn(5000 + number), svg(keywords=words))
    assert prepare(own_tree, tmp_path / "out") == 0
    labels = DatasetInfo.read(tmp_path / "out").tasks[1].labels
    # Of icon 132, fruit 44, birds 41, tools 5 and word00 (30 times) to word29 (once) the first 23.
    assert labels == ["icon", "fruit", "birds", *(f"word{n:02}" for n in range(20))]


def test_pictures_are_square_jpegs_and_a_missing_title_stays_empty(own_tree, tmp_path):
    write_drawing(own_tree, "tools/wide", drawn(5001).resize((50, 7)), svg(title=None))
    assert prepare(own_tree, tmp_path / "out") == 0
    row = all_rows(tmp_path / "out")["tools/wide"]
    image = Image.open(io.BytesIO(row["image"]))
    assert (image.format, image.mode, image.size, row["title"]) == ("JPEG", "RGB", (32, 32), "")


@pytest.mark.parametrize("folder", ["food/fruit", "animals/birds", "unsorted"])
def test_every_folder_is_split_in_the_same_shares(data_set, folder):
    places = Counter(split for id, split in split_of(data_set).items() if id.rpartition("/")[0] == folder)
    total = places.total()
    for split, share in {"train": 0.7, "test": 0.2, "validation": 0.1}.items():
        assert abs(places[split] - share * total) < 1


def test_no_near_duplicate_lies_in_two_splits(own_tree, tmp_path):
    for number in range(12):
        write_drawing(own_tree, f"food/fruit/series_{number}", drawn(7000 + number))
        lighter = drawn(8000 + number % 3).point(lambda level, more=number: level + more // 3)
        write_drawing(own_tree, f"{('tools', 'unsorted')[number % 2]}/copy{'abcdefghijkl'[number]}", lighter)
    for seed in range(4):
        output = tmp_path / f"out{seed}"
        assert prepare(own_tree, output, "--seed", str(seed)) == 0
        places = split_of(output)
        assert len({places[f"food/fruit/series_{number}"] for number in range(12)}) == 1
        copies = {n: places[f"{('tools', 'unsorted')[n % 2]}/copy{'abcdefghijkl'[n]}"] for n in range(12)}
        for n in range(12):
            assert copies[n] == copies[n % 3]


def test_of_copies_the_one_in_the_deepest_folder_is_kept(own_tree, tmp_path):
    write_drawing(own_tree, "unsorted/first", drawn(5007))
    write_drawing(own_tree, "food/dairy/fresh/second", drawn(5007))
    os.symlink("fresh/second.png", own_tree / "png/food/dairy/aaa.png")
    os.symlink("fresh/second.svg", own_tree / "svg/food/dairy/aaa.svg")
    assert prepare(own_tree, tmp_path / "out") == 0
    rows = all_rows(tmp_path / "out")
    assert "food/dairy/fresh/second" in rows and not {"unsorted/first", "food/dairy/aaa"} & set(rows)
    assert not (tmp_path / "out" / "rejects.csv").exists()


def test_generated_series_are_thinned(own_tree, tmp_path):
    for number in range(101):
        write_drawing(own_tree, f"shapes/star_{number:03}pt{number % 7}step", drawn(5000 + number))
        write_drawing(own_tree, f"shapes/{'m' * (number + 1)}", drawn(6000 + number))
    assert prepare(own_tree, tmp_path / "out") == 0
    ids = [id for id in all_rows(tmp_path / "out") if id.startswith("shapes/")]
    assert (len([id for id in ids if "star" in id]), len([id for id in ids if "m" in id])) == (8, 101)


def test_workers_do_not_change_a_byte_and_the_seed_changes_splits(tree, data_set, tmp_path):
    for workers in ("1", "5"):
        assert prepare(tree, tmp_path / workers, "--workers", workers) == 0
        assert contents(tmp_path / workers) == contents(data_set)
    assert prepare(tree, tmp_path / "other", "--seed", "1") == 0
    assert split_of(tmp_path / "other") != split_of(data_set)
    assert set(split_of(tmp_path / "other")) == set(split_of(data_set))


def test_what_cannot_be_read_is_rejected_and_named(own_tree, tmp_path):
    png = own_tree / "png/tools/a.png"
    png.write_bytes(png.read_bytes()[:-30])
    (own_tree / "png/tools/b.png").unlink()
    (own_tree / "svg/tools/c.svg").write_bytes(svg()[:-9])
    assert prepare(own_tree, tmp_path / "out") == 0
    rejects = (tmp_path / "out" / "rejects.csv").read_text().splitlines()
    # animals 41 and food 44 come first.
    assert [line.split(",")[:2] for line in rejects[1:]] == [["86", "tools/a"], ["87", "tools/b"], ["88", "tools/c"]]
    assert "IMG_TRUNCATED" in rejects[1] and "No such file" in rejects[2] and "not well-formed" in rejects[3]
    assert not {"tools/a", "tools/b", "tools/c"} & set(all_rows(tmp_path / "out"))


def test_mostly_unreadable_drawings_are_refused(own_tree, tmp_path, capsys):
    for png in own_tree.glob("png/**/*.png"):
        png.write_bytes(b"")
    assert prepare(own_tree, tmp_path / "out") == 2
    message = refused(capsys)
    assert "132 of 132 drawings cannot be read" in message and "animals/birds/a: IMG_EMPTY" in message
    assert not (tmp_path / "out").exists()


def test_too_few_full_folders_are_refused(tmp_path, capsys):
    for number in range(41):
        write_drawing(tmp_path / "tree", f"food/{'a' * (number + 1)}", drawn(5000 + number))
    assert prepare(tmp_path / "tree", tmp_path / "out") == 2
    assert "1 of 1 folders hold 40 different drawings or more" in refused(capsys)
    assert not (tmp_path / "out").exists()


def test_drawings_without_keywords_are_refused(own_tree, tmp_path, capsys):
    for file in own_tree.glob("svg/**/*.svg"):
        file.write_bytes(svg(keywords=()))
    assert prepare(own_tree, tmp_path / "out") == 2
    assert "none of the 132 drawings has a keyword" in refused(capsys)


@pytest.mark.parametrize(("kind", "expected"), [("png", "no folder png in it"), ("svg", "no folder svg in it")])
def test_a_source_of_another_layout_is_refused(tree, tmp_path, capsys, kind, expected):
    os.symlink(tree / {"png": "svg", "svg": "png"}[kind], tmp_path / {"png": "svg", "svg": "png"}[kind])
    assert prepare(tmp_path, tmp_path / "out") == 2
    assert expected in refused(capsys)


@pytest.mark.parametrize(
    "wrong", [("--image-size", "15"), ("--image-size", "513"), ("--seed", "-1"), ("--workers", "0")]
)
def test_numbers_out_of_range_are_refused(tree, tmp_path, capsys, wrong):
    assert prepare(tree, tmp_path / "out", *wrong) == 2
    assert f"{wrong[0]} {wrong[1]}" in refused(capsys)


def test_preparing_again_does_nothing_until_a_drawing_changes(own_tree, tmp_path, capsys):
    assert prepare(own_tree, tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    assert prepare(own_tree, tmp_path / "out") == 0
    assert "already there" in capsys.readouterr().out
    write_drawing(own_tree, "tools/a", drawn(5005))
    assert prepare(own_tree, tmp_path / "out") == 2
    assert "--overwrite" in refused(capsys)
    assert contents(tmp_path / "out") == before


def test_an_interrupted_run_leaves_nothing_behind(tree, tmp_path, monkeypatch):
    def stops(drawing, side):
        if drawing.row == 100:
            raise KeyboardInterrupt
        return read(drawing, side)

    read = open_clipart.read_drawing
    monkeypatch.setattr(open_clipart, "read_drawing", stops)
    assert prepare(tree, tmp_path / "out") == 75
    assert list(tmp_path.iterdir()) == []


def fake_commands(folder: Path, monkeypatch, apt_get: str, tree: Path) -> None:
    """apt-get as given, and a dpkg that unpacks each package to one half of the tree."""
    monkeypatch.setattr(where, "PACKAGED", folder / "usr/share/openclipart")
    unpack = f'kind=${{2#openclipart-}}; kind=${{kind%%_*}}; mkdir -p "$3{where.PACKAGED}"\n'
    unpack += f'cp -a "{tree}/$kind" "$3{where.PACKAGED}/$kind"\n'
    folder.mkdir()
    for name, body in {"apt-get": apt_get, "dpkg": unpack}.items():
        (folder / name).write_text(f"#!/bin/sh\nset -e\n{body}")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


def test_packages_are_downloaded_once(own_tree, tmp_path, monkeypatch):
    os.symlink("a.png", own_tree / "png/tools/link.png")
    os.symlink("a.svg", own_tree / "svg/tools/link.svg")
    download = "touch openclipart-png_1_all.deb openclipart-svg_1_all.deb\n"
    fake_commands(tmp_path / "bin", monkeypatch, download, own_tree)
    found = where.find()
    assert found == tmp_path / "bin/cache/cma-clip/openclipart"
    assert contents(found) == contents(own_tree) and (found / "png/tools/link.png").is_symlink()
    (tmp_path / "bin/apt-get").write_text("#!/bin/sh\nexit 1\n")
    assert where.find() == found


def test_without_any_source_the_cure_is_named(tmp_path, monkeypatch, capsys):
    fails = "echo 'Reading' >&2; echo 'E: Unable to locate package openclipart-png' >&2; exit 100\n"
    fake_commands(tmp_path / "bin", monkeypatch, fails, tmp_path)
    assert main(["open_clipart", "--output", str(tmp_path / "out")]) == 2
    message = refused(capsys)
    assert "E: Unable to locate package openclipart-png" in message and "--source TREE/usr/share/openclipart" in message
    assert not (tmp_path / "bin/cache").exists() and not (tmp_path / "out").exists()
