"""APA mini: photographs, pictures, titles, labels, splits, and the command."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_set_files import contents, rows_of
from fashion_mnist_files import OTHERS_PER_PART, write_fashion_mnist
from PIL import Image

from dataset.format import DatasetInfo, shard_schema
from dataset.splits import SPLITS
from train.prepare import apa_mini
from train.prepare.__main__ import main
from train.prepare.apa_mini import Collection, fashion_mnist, make_product, products, split_dresses, true_labels
from train.prepare.apa_mini.images import COLORS, product_image
from train.prepare.apa_mini.patterns import PATTERNS
from train.prepare.apa_mini.titles import BRANDS, COLOR_WORDS, PATTERN_WORDS, product_title

SIZES = {"train": 300, "validation": 40, "test": 50}


@pytest.fixture(scope="session")
def idx_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fashion-mnist")
    write_fashion_mnist(folder, train=40, test=40)
    return folder


@pytest.fixture(scope="session")
def collection(idx_files) -> Collection:
    return Collection(split_dresses(*fashion_mnist.dresses(idx_files)), image_size=32, seed=0)


def arguments(idx_files: Path, output: Path, *more: str) -> list[str]:
    sizes = ["--size", "300", "--validation", "40", "--test", "50", "--image-size", "32", "--workers", "1"]
    return ["apa_mini", "--source", str(idx_files), "--output", str(output), *sizes, *more]


@pytest.fixture(scope="session")
def data_set(idx_files, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "apa"
    assert main(arguments(idx_files, output)) == 0
    return output


def test_data_set_keeps_its_contract(data_set):
    info = DatasetInfo.read(data_set)
    assert [(task.name, len(task.labels)) for task in info.tasks] == [("color", 17), ("pattern", 12)]
    assert {name: split.rows for name, split in info.splits.items()} == SIZES
    for name, split in info.splits.items():
        rows = rows_of(data_set, name)
        assert len(rows) == split.rows
        for task in info.tasks:
            counted = Counter(row[task.name] for row in rows)
            assert split.label_counts[task.name] == {label: counted[label] for label in task.labels}
        for shard in split.shards:
            file = data_set / shard.file
            assert hashlib.sha256(file.read_bytes()).hexdigest() == shard.sha256
            assert pq.read_schema(file).equals(shard_schema(info.tasks))
    assert sorted(contents(data_set)) == ["dataset.json", *(f"split={name}/00000.parquet" for name in sorted(SIZES))]


def test_hash_is_over_the_shards_in_order(data_set):
    info = DatasetInfo.read(data_set)
    digests = "".join(shard.sha256 for name in SPLITS for shard in info.splits[name].shards)
    assert info.hash == hashlib.sha256(digests.encode()).hexdigest()


def test_pictures_are_decodable_and_of_the_asked_size(data_set):
    for row in rows_of(data_set, "test"):
        image = Image.open(io.BytesIO(row["image"]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (32, 32))


def test_same_seed_same_bytes_and_another_seed_others(data_set, idx_files, tmp_path):
    assert main(arguments(idx_files, tmp_path / "again")) == 0
    assert contents(tmp_path / "again") == contents(data_set)
    assert main(arguments(idx_files, tmp_path / "other", "--seed", "1")) == 0
    assert DatasetInfo.read(tmp_path / "other").hash != DatasetInfo.read(data_set).hash


def test_workers_do_not_change_products(collection):
    sizes = {"train": apa_mini.CHUNK + 3, "validation": 2, "test": 5}
    with products(collection, sizes, workers=2) as two, products(collection, sizes, workers=1) as one:
        assert list(two) == list(one)


def test_a_larger_data_set_begins_with_the_smaller_one(collection):
    with products(collection, {"train": 5}) as small, products(collection, {"train": 9}) as large:
        assert [p.id for p in large][:5] == [p.id for p in small]


def test_validation_and_test_share_no_photograph(collection):
    seen = {name: {photo.tobytes() for photo in photos} for name, photos in collection.dresses.items()}
    assert {name: len(photos) for name, photos in collection.dresses.items()} == {
        "train": 40,
        "validation": 12,
        "test": 28,
    }
    assert not seen["train"] & seen["validation"] and not seen["train"] & seen["test"]
    assert not seen["validation"] & seen["test"]


def test_only_dresses_are_used(idx_files):
    train, test = fashion_mnist.dresses(idx_files)
    assert len(train) == len(test) == 40
    labels = fashion_mnist.read_idx(idx_files / "train-labels-idx1-ubyte.gz", fashion_mnist.LABELS_MAGIC)
    assert len(labels) == 40 + OTHERS_PER_PART
    assert max(photo.max() for photo in train) < 255 and np.all(train[:, 14, 13] > 90)


def test_brands_are_disjoint_and_some_carry_a_colour_word():
    assert not set(BRANDS["train"]) & set(BRANDS["validation"])
    assert not set(BRANDS["train"]) & set(BRANDS["test"])
    assert not set(BRANDS["validation"]) & set(BRANDS["test"])
    for brands in BRANDS.values():
        assert sum(any(color in brand.lower() for color in COLORS) for brand in brands) >= 3
        assert not any(named(brand, COLOR_WORDS) or named(brand, PATTERN_WORDS) for brand in brands)


def named(title: str, words: dict[str, tuple[str, ...]]) -> set[str]:
    """The labels that a title names by a whole word."""
    return {
        label
        for label, synonyms in words.items()
        if any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", title.lower()) for word in synonyms)
    }


def titles(count: int) -> list[tuple[str, str, str]]:
    """Titles with the colour and the pattern that they were made for."""
    found = []
    for index in range(count):
        rng = np.random.default_rng(index)
        color, pattern = rng.choice(list(COLORS)), rng.choice(list(PATTERNS))
        found.append((product_title(SPLITS[index % 3], color, pattern, rng), color, pattern))
    return found


def test_titles_name_the_colour_and_the_pattern_as_often_as_the_paper_says():
    made = titles(4000)
    colors = [named(title, COLOR_WORDS) for title, _, _ in made]
    patterns = [named(title, PATTERN_WORDS) for title, _, _ in made]
    assert np.mean([bool(found) for found in colors]) == pytest.approx(0.67, abs=0.03)
    assert np.mean([bool(found) for found in patterns]) == pytest.approx(0.25, abs=0.03)


def test_titles_name_nothing_but_the_truth():
    for title, color, pattern in titles(2000):
        assert named(title, COLOR_WORDS) <= {color}, title
        assert named(title, PATTERN_WORDS) <= {pattern}, title


def test_products_have_a_brand_of_their_split_and_a_title_that_is_true_despite_noise(collection):
    for split, index in [(split, index) for split in SPLITS for index in range(60)]:
        title = make_product(collection, split, index).title
        color, pattern = true_labels(collection.seed, split, index)
        assert any(brand in title for brand in BRANDS[split]), title
        assert named(title, COLOR_WORDS) <= {color} and named(title, PATTERN_WORDS) <= {pattern}, title


def test_titles_without_names_say_nothing_of_the_labels(monkeypatch):
    monkeypatch.setattr("train.prepare.apa_mini.titles.COLOR_NAMED", 0.0)
    monkeypatch.setattr("train.prepare.apa_mini.titles.PATTERN_NAMED", 0.0)
    pairs = [("red", "plain"), ("black", "floral")]
    red, black = ([product_title("train", *pair, np.random.default_rng(n)) for n in range(50)] for pair in pairs)
    assert red == black


def test_a_tenth_of_the_training_labels_is_wrong_and_no_other(collection):
    wrong = {"train": Counter(), "validation": Counter(), "test": Counter()}
    rows = 300
    for split in SPLITS:
        for index in range(rows):
            made = make_product(collection, split, index).labels
            for name, truth in zip(("color", "pattern"), true_labels(collection.seed, split, index), strict=True):
                wrong[split][name] += made[name] != truth
    assert not wrong["validation"].total() and not wrong["test"].total()
    for name in ("color", "pattern"):
        assert 0.05 < wrong["train"][name] / rows < 0.15


def test_plain_is_a_third_and_the_others_share_the_rest(collection):
    drawn = Counter(true_labels(collection.seed, "train", index)[1] for index in range(6000))
    assert drawn["plain"] / 6000 == pytest.approx(1 / 3, abs=0.03)
    for pattern in list(PATTERNS)[1:]:
        assert drawn[pattern] / 6000 == pytest.approx(2 / 33, abs=0.02)


def test_the_dress_has_the_colour_of_its_label(collection):
    anchors = np.array(list(COLORS.values()), float)
    right = 0
    for index in range(170):
        color = list(COLORS)[index % 17]
        rng = np.random.default_rng(index)
        pixels = product_image(collection.dresses["train"][index % 40], color, "plain", 64, rng)
        mean = pixels[24:40, 29:35].reshape(-1, 3).mean(0)
        right += list(COLORS)[np.linalg.norm(anchors - mean, axis=1).argmin()] == color
    assert right >= 0.9 * 170


@pytest.mark.parametrize("pattern", list(PATTERNS))
@pytest.mark.parametrize("size", [64, 97])
def test_patterns_cover_some_of_the_cloth_but_leave_its_colour(pattern, size):
    shares = []
    for seed in range(12):
        masks = PATTERNS[pattern](np.random.default_rng(seed), size)
        assert all(mask.shape == (size, size) and mask.min() >= 0 and mask.max() <= 1 for mask in masks)
        bare = np.ones((size, size))
        for mask in masks:
            bare = bare * (1 - mask)
        shares.append(1 - bare.mean())
    covered = np.mean(shares)
    assert covered == 0 if pattern == "plain" else 0.02 < covered < 0.75


def damaged(idx_files: Path, folder: Path, name: str, change) -> Path:
    folder.mkdir()
    for file in idx_files.iterdir():
        (folder / file.name).write_bytes(change(file.read_bytes()) if file.name == name else file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-200], "not a whole gzip file"),
        (lambda data: gzip.compress(gzip.decompress(data)[:-5]), "its header says"),
        (lambda data: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(data)[4:]), "magic number 2051"),
        (lambda data: b"", "magic number 2051"),
    ],
)
def test_a_damaged_file_is_named(idx_files, tmp_path, capsys, change, expected):
    name = "t10k-images-idx3-ubyte.gz"
    source = damaged(idx_files, tmp_path / "source", name, change)
    assert main(arguments(source, tmp_path / "out")) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1 and message[0].startswith("error: ")
    assert name in message[0] and expected in message[0]
    assert not (tmp_path / "out").exists()


def test_without_any_source_the_cure_is_named(tmp_path, monkeypatch, capsys, caplog):
    def from_nowhere(work: Path) -> Path:
        raise subprocess.CalledProcessError(100, "apt-get", stderr="Reading\nE: Unable to locate package")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr(fashion_mnist, "from_debian", from_nowhere)
    monkeypatch.setattr(fashion_mnist, "from_torchvision", from_nowhere)
    assert main(["apa_mini", "--output", str(tmp_path / "out")]) == 2
    assert "--source" in capsys.readouterr().err.strip().splitlines()[-1]
    assert "failed: E: Unable to locate package" in caplog.messages[-1]
    assert not fashion_mnist.cache_directory().exists()


def test_a_download_is_kept_for_the_next_run(idx_files, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fashion_mnist, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr(fashion_mnist, "from_debian", lambda work: idx_files)
    found = fashion_mnist.find()
    assert found == tmp_path / "cma-clip" / "fashion-mnist" and {path.name for path in found.iterdir()} == set(
        fashion_mnist.FILES
    )
    monkeypatch.setattr(fashion_mnist, "from_debian", None)
    assert fashion_mnist.find() == found


def test_preparing_again_does_nothing(data_set, idx_files, capsys):
    before = (data_set / "dataset.json").stat().st_mtime_ns
    assert main(arguments(idx_files, data_set)) == 0
    assert "already there" in capsys.readouterr().out
    assert (data_set / "dataset.json").stat().st_mtime_ns == before


def test_other_settings_need_overwrite(idx_files, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(arguments(idx_files, output)) == 0
    assert main(arguments(idx_files, output, "--seed", "5")) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert DatasetInfo.read(output).settings["seed"] == 0
    assert main(arguments(idx_files, output, "--seed", "5", "--overwrite")) == 0
    assert DatasetInfo.read(output).settings["seed"] == 5


def test_a_directory_that_is_no_data_set_is_left_alone(idx_files, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(arguments(idx_files, tmp_path, "--overwrite")) == 2
    assert "not a data set" in capsys.readouterr().err
    assert contents(tmp_path) == {"thesis.tex": b"precious"}


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 75), (ValueError("broken"), 2)])
def test_an_interrupted_run_leaves_nothing_behind(idx_files, tmp_path, monkeypatch, error, code):
    def stops(collection, split, index):
        if index == 280:
            raise error
        return make_product(collection, split, index)

    monkeypatch.setattr(apa_mini, "make_product", stops)
    assert main(arguments(idx_files, tmp_path / "out")) == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [("--size", "0"), ("--test", "-1"), ("--image-size", "4"), ("--workers", "0"), ("--seed", "-1")]
)
def test_numbers_out_of_range_are_refused(idx_files, tmp_path, capsys, wrong):
    assert main(arguments(idx_files, tmp_path / "out", *wrong)) == 2
    assert f"{wrong[0]} {wrong[1]}" in capsys.readouterr().err
