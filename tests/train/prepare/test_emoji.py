"""Emoji: the command, whose drawings become products, their labels, and splits that share no emoji."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_set_files import all_rows, contents, rejects, rows_of
from emoji_files import PLACES, drawings, encoded, expect, texts, write_package, write_packages
from open_clipart_files import drawn
from PIL import Image

from dataset.format import DatasetInfo
from train.prepare.__main__ import main
from train.prepare.emoji import source
from train.prepare.emoji.labels import frequent
from train.prepare.emoji.names import LANGUAGES, Emoji, Name, kin_of
from train.prepare.emoji.titles import product_title
from train.prepare.packages import packed_name

ALIKE = {"1f340": "1f345", "1f341": "1f346", "1f400": "1f405"}  # as Twemoji draws them in one test


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    return write_packages(tmp_path_factory.mktemp("npm") / "packages")


@pytest.fixture(autouse=True)
def expected(packages, monkeypatch) -> None:
    expect(packages, monkeypatch)


@pytest.fixture(scope="module")
def data_set(packages, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "emoji"
    with pytest.MonkeyPatch.context() as patch:
        expect(packages, patch)
        assert prepare(packages, output) == 0
    return output


@pytest.fixture
def own(packages, tmp_path) -> Path:
    """Packages that a test may replace."""
    folder = tmp_path / "own"
    folder.mkdir()
    for file in packages.iterdir():
        os.link(file, folder / file.name)
    return folder


def prepare(folder: Path, output: Path, *more: str) -> int:
    return main(["emoji", "--source", str(folder), "--output", str(output), "--image-size", "32", *more])


def replace_package(file: Path, files: dict[str, bytes], monkeypatch) -> None:
    file.unlink()
    write_package(file, files)
    expect(file.parent, monkeypatch)


def refused(capsys, output: Path) -> str:
    assert not output.exists()
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    return last


def split_of(directory: Path) -> dict[str, str]:
    return {row["id"]: name for name in DatasetInfo.read(directory).splits for row in rows_of(directory, name)}


def test_every_vendors_drawing_of_every_emoji_is_a_product(data_set):
    rows = all_rows(data_set)
    codes = {code.replace("-fe0f", "") for code in PLACES}  # no flag, no skin tone, no letter of one
    assert set(rows) == {f"{vendor}/{code}" for vendor in source.VENDORS for code in codes}
    image = Image.open(io.BytesIO(rows["fluent/2764"]["image"]))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))
    place = list(PLACES).index("2764-fe0f")
    shown = np.asarray(image.resize((3, 3), Image.Resampling.BOX)).astype(int)
    assert np.abs(shown - np.asarray(drawn(2000 + place).resize((3, 3), Image.Resampling.BOX))).max() < 20


def test_labels_are_those_that_enough_drawings_have(data_set):
    group, subgroup, keywords, color = DatasetInfo.read(data_set).tasks
    assert group.labels == ["animals-nature", "food-drink"] and subgroup.labels == ["animal-mammal", "food-fruit"]
    assert keywords.labels == ["living"] and len(color.labels) == 10
    rows = all_rows(data_set)
    assert Counter(row["group"] for row in rows.values()) == {"food-drink": 52, "animals-nature": 52, None: 32}
    fruit, cook = rows["noto/1f340"], rows["noto/1f468-200d-1f373"]
    assert (fruit["subgroup"], fruit["keywords"]) == ("food-fruit", ["living"])
    assert (cook["group"], cook["subgroup"], cook["keywords"]) == (None, None, [])


def test_the_licence_of_every_set_stands_in_the_data_set(data_set):
    info = DatasetInfo.read(data_set)
    for vendor in source.VENDORS.values():
        assert f"{vendor.title} ({vendor.license})" in info.source
    assert info.settings["packages"] == [package.spec for package in source.all_packages()]


def test_no_emoji_nor_a_variant_of_it_is_in_two_splits(own, tmp_path, monkeypatch):
    vendor = source.VENDORS["twemoji"]
    files = drawings("twemoji")
    for one, other in ALIKE.items():
        lighter = drawn(9000 + int(one, 16)).point(lambda level: level + 2)
        files[f"{vendor.folder}{one}.png"] = encoded(drawn(9000 + int(one, 16)))
        files[f"{vendor.folder}{other}.png"] = encoded(lighter)
    replace_package(own / vendor.package.file, files, monkeypatch)
    for seed in range(3):
        assert prepare(own, tmp_path / f"out{seed}", "--seed", str(seed)) == 0
        places = split_of(tmp_path / f"out{seed}")
        of_kin: dict[str, set[str]] = {}
        for id, split in places.items():
            of_kin.setdefault(kin_of(id.partition("/")[2]), set()).add(split)
        assert all(len(splits) == 1 for splits in of_kin.values())
        assert set(places.values()) == {"train", "validation", "test"}
        assert all(places[f"noto/{one}"] == places[f"fluent/{other}"] for one, other in ALIKE.items())
    assert split_of(tmp_path / "out0") != split_of(tmp_path / "out1")


def test_a_vendors_two_emoji_of_one_image_are_one_product(own, tmp_path, monkeypatch):
    vendor = source.VENDORS["twemoji"]
    files = drawings("twemoji")
    files[f"{vendor.folder}1f345.png"] = files[f"{vendor.folder}1f340.png"]
    del files[f"{vendor.folder}1f341.png"]  # not every vendor draws all
    replace_package(own / vendor.package.file, files, monkeypatch)
    assert prepare(own, tmp_path / "out") == 0
    rows = all_rows(tmp_path / "out")
    assert "twemoji/1f340" in rows and not {"twemoji/1f341", "twemoji/1f345"} & set(rows)
    assert {"noto/1f341", "noto/1f345"} <= set(rows) and not (tmp_path / "out/rejects.csv").exists()


def test_workers_do_not_change_a_byte(packages, data_set, tmp_path):
    for workers in ("1", "5"):
        assert prepare(packages, tmp_path / workers, "--workers", workers) == 0
        assert contents(tmp_path / workers) == contents(data_set)


def test_preparing_again_does_nothing_and_needs_no_package(data_set, tmp_path, capsys):
    before = contents(data_set)
    assert prepare(tmp_path, data_set) == 0
    assert "already there" in capsys.readouterr().out
    assert prepare(tmp_path, data_set, "--seed", "1") == 2
    assert "--overwrite" in capsys.readouterr().err and contents(data_set) == before


def test_an_image_that_cannot_be_read_is_rejected_and_named(own, tmp_path, monkeypatch, capsys):
    vendor = source.VENDORS["noto"]
    files = drawings("noto")
    files[f"{vendor.folder}1f340.png"] = files[f"{vendor.folder}1f340.png"][:-30]
    replace_package(own / vendor.package.file, files, monkeypatch)
    assert prepare(own, tmp_path / "out") == 2
    message = refused(capsys, tmp_path / "out")
    assert "1 of 136 drawings cannot be read, at most 0.1% may be bad; noto/1f340: IMG_TRUNCATED" in message
    assert prepare(own, tmp_path / "out", "--max-rejects", "0.01") == 0
    [(row, id)] = rejects(tmp_path / "out")
    codes = sorted(code.replace("-fe0f", "") for code in PLACES)
    assert (codes[row - 1], id) == ("1f340", "noto/1f340") and id not in all_rows(tmp_path / "out")


def test_another_package_than_the_expected_one_is_refused(own, tmp_path, capsys):
    file = own / source.NAMES.file
    other = file.read_bytes() + b"\0"
    file.unlink()
    file.write_bytes(other)
    assert prepare(own, tmp_path / "out") == 2
    message = refused(capsys, tmp_path / "out")
    assert (
        f"{file}: not emojibase-data@17.0.0, its sha512 is " in message and "npm pack emojibase-data@17.0.0" in message
    )
    file.unlink()
    assert prepare(own, tmp_path / "out") == 2
    assert f"{file}: no such file; `npm pack emojibase-data@17.0.0` makes it" in refused(capsys, tmp_path / "out")


def test_a_package_without_what_is_wanted_is_refused(own, tmp_path, capsys, monkeypatch):
    noto = own / source.VENDORS["noto"].package.file
    replace_package(noto, {"package/README.md": b""}, monkeypatch)
    assert prepare(own, tmp_path / "out") == 2
    assert f"{noto}: no package/img/google/64/*.png in it" in refused(capsys, tmp_path / "out")
    files = texts()
    del files["package/fr/data.json"]
    replace_package(own / source.NAMES.file, files, monkeypatch)
    assert prepare(own, tmp_path / "out") == 2
    assert f"{own / source.NAMES.file}: no package/fr/data.json in it" in refused(capsys, tmp_path / "out")


def test_packages_with_too_few_emoji_are_refused(own, tmp_path, capsys, monkeypatch):
    for name, vendor in source.VENDORS.items():
        few = {file: data for file, data in drawings(name).items() if "1f4" not in file}
        replace_package(own / vendor.package.file, few, monkeypatch)
    assert prepare(own, tmp_path / "out") == 2
    assert "1 groups and 1 subgroups have 40 or more" in refused(capsys, tmp_path / "out")


@pytest.mark.parametrize("wrong", [("--image-size", "15"), ("--max-rejects", "2")])
def test_numbers_out_of_range_are_refused(packages, tmp_path, capsys, wrong):
    assert prepare(packages, tmp_path / "out", *wrong) == 2
    assert f"{wrong[0]} {wrong[1]}" in refused(capsys, tmp_path / "out")


def fake_npm(folder: Path, monkeypatch, body: str) -> None:
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\nset -e\n{body}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


COPIES = """name=$(echo "$4" | sed 's/^@//; s,/,-,; s/@\\([^@]*\\)$/-\\1/'); cp "{folder}/$name.tgz" ."""


def test_packages_are_downloaded_once(packages, tmp_path, monkeypatch):
    fake_npm(tmp_path / "bin", monkeypatch, COPIES.format(folder=packages))
    found = source.find()
    assert found == tmp_path / "bin/cache/cma-clip/emoji" and contents(found) == contents(packages)
    (tmp_path / "bin/npm").write_text("#!/bin/sh\nexit 1\n")
    assert source.find() == found


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("echo 'npm error 404' >&2; exit 1", "could not be downloaded (npm error 404)"),
        ('touch "emojibase-data-17.0.0.tgz"', "(emojibase-data-17.0.0.tgz: not emojibase-data@17.0.0, its sha512 is "),
    ],
)
def test_without_the_right_packages_the_cure_is_named(tmp_path, monkeypatch, capsys, body, expected):
    fake_npm(tmp_path / "bin", monkeypatch, body)
    assert main(["emoji", "--output", str(tmp_path / "out")]) == 2
    message = refused(capsys, tmp_path / "out")
    assert expected in message and "pass --source FOLDER with the .tgz files" in message
    assert not (tmp_path / "bin/cache/cma-clip/emoji").exists()


@pytest.mark.parametrize(
    ("spec", "file"),
    [("emojione@2.2.7", "emojione-2.2.7.tgz"), ("@lobehub/fluent-emoji-3d@1.1.0", "lobehub-fluent-emoji-3d-1.1.0.tgz")],
)
def test_names_of_packed_files(spec, file):
    assert packed_name(spec) == file


@pytest.mark.parametrize(
    "kin",
    [
        ("1f9d1-200d-1f373", "1f468-200d-1f373", "1f469-200d-1f373"),
        ("1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642-200d-27a1", "1f3c3-200d-27a1"),
        ("1f468", "1f469", "1f9d1"),
        ("1f46a", "1f468-200d-1f469-200d-1f466", "1f9d1-200d-1f9d1-200d-1f9d2"),
        ("1f491", "1f468-200d-2764-200d-1f468"),
        ("1f46b", "1f9d1-200d-1f91d-200d-1f9d1"),
        ("1f385", "1f936", "1f9d1-200d-1f384"),
    ],
)
def test_variants_of_gender_and_direction_are_of_one_kin(kin):
    assert len({kin_of(code) for code in kin}) == 1


def test_other_emoji_are_of_other_kins():
    codes = [
        "1f373",
        "1f9d1-200d-1f373",
        "1f9d1-200d-1f4bb",
        "1f468",
        "1f466",
        "2640",
        "2642",
        "27a1",
        "1f468-200d-1f466",
    ]
    assert len({kin_of(code) for code in codes}) == len(codes)


def apple() -> Emoji:
    names = {language: Name(f"{language} apple", (f"{language}one", f"{language}two")) for language in LANGUAGES}
    return Emoji("1f34e", "food-drink", "food-fruit", names | {"de": Name("roter Apfel", ("Apfel", "Obst", "rot"))})


def test_titles_are_names_and_tags_in_one_language_or_only_the_sets():
    titles = Counter(product_title(f"noto/{n}", apple(), "Noto Emoji", 0) for n in range(4000))
    assert abs(titles["Noto Emoji"] / 4000 - 0.15) < 0.03
    assert abs(titles["en apple"] / 4000 - 0.85 * 0.4) < 0.03
    assert not [title for title in titles if "enone" in title]  # English tags are labels
    assert {title for title in titles if "Apfel" in title} == {"roter Apfel", "roter Apfel, Obst"}
    assert titles["Obst"] and titles["fr apple, frtwo, frone"] and titles["frone, frtwo"] and titles["fr apple"]
    assert not [title for title in titles if "fr" in title and "pt" in title]
    assert product_title("noto/1", apple(), "Noto Emoji", 1) == product_title("noto/1", apple(), "Noto Emoji", 1)


def test_an_emoji_without_names_in_other_languages_has_english_titles():
    english = Emoji("1f34e", "food-drink", "food-fruit", {"en": Name("apple", ("fruit",))})
    assert {product_title(f"noto/{n}", english, "Noto Emoji", 0) for n in range(50)} == {"apple", "Noto Emoji"}


def test_labels_are_frequent_and_in_every_split():
    words = [(word, split) for word in ("b", "a") for split in ("train", "train", "validation", "test")]
    words += [("c", "train")] * 9 + [("c", "test")] + [("d", split) for split in ("train", "validation", "test")]
    assert frequent(words, 4) == ["a", "b"] and frequent([*words, ("b", "test")], 3) == ["b", "a", "d"]
