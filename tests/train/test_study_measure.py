"""What is measured of a bundle, against single answers and counts by hand; and what counts as naming a label."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from study_files import ROWS, TASKS, random_bundle, write_products

from dataset.format import DatasetInfo
from model.bundle import load_bundle
from model.tasks import MISSING, MultiLabel, SingleLabel
from train.data import ProductDataset
from train.predict import Predictions
from train.study.measure import by_naming, confusion_matrices, measure
from train.study.naming import Naming, phrase_pattern
from train.study.perturbed import PERTURBATIONS

READABLE = [0, 1, 2, 3, 4, 5, 7, 8]


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(tmp_path_factory.mktemp("measure") / "data")


@pytest.fixture(scope="module")
def bundle_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle(tmp_path_factory.mktemp("measure") / "bundle")


def answers(colors: list[int], scores: list[float], shares: list[tuple[float, float]], tags: list[list[int]]):
    """Predictions for ROWS: the answered colour with its score, λ of both tasks, the answered tags."""
    rest = [[(1 - score) / 2] * 3 for score in scores]
    color_logits = torch.tensor(rest)
    color_logits[range(len(colors)), colors] = torch.tensor(scores)
    logits = torch.cat([color_logits.log(), 4 * torch.tensor(tags, dtype=torch.float32) - 2], dim=1)
    return Predictions(logits, torch.tensor(shares), targets_by_hand(), presence_by_hand(), [])


def targets_by_hand() -> torch.Tensor:
    m = MISSING
    return torch.tensor(
        [
            [1, 0, 0, 0, 1],
            [1, 0, 0, 0, 0],
            [0, 1, 0, 1, 0],
            [0, 1, 0, 0, 1],
            [0, 0, 1, 0, 1],
            [0, 0, 1, 1, 1],
            [m, m, m, m, m],
            [m, m, m, 1, 0],
            [m, m, m, m, m],
        ]
    )


def presence_by_hand() -> torch.Tensor:
    present = torch.ones(9, 2, dtype=torch.bool)
    present[3, 0] = present[4, 1] = False
    return present


def test_measure_says_what_single_answers_say(products: Path, bundle_dir: Path):
    result = measure(bundle_dir, products)
    bundle = load_bundle(bundle_dir)
    colored = [n for n in READABLE if ROWS[n][2]]
    single = {n: bundle.classify([ROWS[n][:2]])[0]["color"] for n in READABLE}
    assert result["test"]["color"]["products"] == 6 and result["test"]["tags"]["products"] == 7
    right = sum(single[n]["label"] == ROWS[n][2] for n in colored)
    assert result["test"]["color"]["accuracy"] == pytest.approx(right / 6)
    labels = TASKS[0].labels
    counts = np.zeros((3, 3), dtype=int)
    for n in colored:
        counts[labels.index(ROWS[n][2]), labels.index(single[n]["label"])] += 1
    assert result["confusion"] == {"color": {"labels": labels, "counts": counts.tolist()}}
    named = [single[n]["text_share"] for n in (0, 2, 5)]  # Redwood names no colour
    assert result["named"]["color"]["named"]["text_share"] == pytest.approx(sum(named) / 3, abs=1e-5)
    assert result["named"]["color"]["not_named"]["text_share"] == pytest.approx(single[1]["text_share"], abs=1e-5)
    assert list(result["irrelevant"]) == list(PERTURBATIONS)
    assert json.loads(json.dumps(result)) == result
    assert "irrelevant" not in measure(bundle_dir, products, suite=False)


def test_a_constant_share_fills_one_bin(products: Path, tmp_path: Path):
    result = measure(random_bundle(tmp_path / "late", architecture="late_fusion"), products, suite=False)
    expected = [0] * 20
    expected[10] = 3
    assert result["named"]["color"]["named"]["histogram"] == expected


def test_answers_apart_by_what_the_title_names(products: Path):
    shares = [
        (0.9, 0.5),
        (0.2, 0.5),
        (0.8, 0.5),
        (0.0, 0.0),
        (1.0, 1.0),
        (1.0, 0.04),
        (0.7, 0.7),
        (0.3, 0.96),
        (0.5, 0.5),
    ]
    said = answers(
        [0, 1, 1, 1, 2, 0, 0, 0, 0], [0.9] * 9, shares, [[0, 1], [0, 0], [1, 0], [0, 1], [0, 1], [1, 0]] + [[0, 0]] * 3
    )
    split = ProductDataset.__new__(ProductDataset)
    rows = [dict(zip(("title", "color", "tags"), (row[0], row[2], row[3]), strict=True)) for row in ROWS]
    split.starts, split.product = [0, 9], rows.__getitem__  # type: ignore[method-assign]
    result = by_naming(said, split, DatasetInfo.read(products), TASKS)
    # color: 0, 2 and 5 name it, 1 does not; 3 and 4 lack the title or the picture.
    named, not_named = result["color"]["named"], result["color"]["not_named"]
    assert (named["products"], not_named["products"]) == (3, 1)
    assert named["text_share"] == pytest.approx(0.9) and not_named["text_share"] == pytest.approx(0.2)
    assert {bin: count for bin, count in enumerate(named["histogram"]) if count} == {16: 1, 18: 1, 19: 1}
    assert named["accuracy"] == pytest.approx(2 / 3) and not_named["accuracy"] == 0
    # tags: 2 names a dot, 5 "new", 7 no dot; 0 is not called new; 1 has none.
    named, not_named = result["tags"]["named"], result["tags"]["not_named"]
    assert (named["products"], not_named["products"]) == (2, 2)
    assert named["text_share"] == pytest.approx((0.5 + 0.04) / 2) and not_named["text_share"] == pytest.approx(0.73)
    assert sum(named["histogram"]) == 2 and named["histogram"][0] == named["histogram"][10] == 1


def test_confusion_by_hand():
    said = answers([0, 1, 1, 0, 2, 0, 0, 0, 0], [0.9] * 9, [(0.5, 0.5)] * 9, [[0, 0]] * 9)
    counts = [[1, 1, 0], [1, 1, 0], [1, 0, 1]]
    assert confusion_matrices(said, TASKS) == {"color": {"labels": ["red", "blue", "green"], "counts": counts}}


@pytest.mark.parametrize(
    ("title", "label", "is_named"),
    [
        ("RED dress", "red", True),
        ("Gown by Redwood", "red", False),
        ("Scarlet gown", "red", True),
        ("a-line dress, Bluebell", "blue", False),
        ("royal  blue dress", "blue", True),
        ("grey_gown", "grey", True),
        ("gray gown", "grey", True),
        ("", "black", False),
    ],
)
def test_colours_of_apa_mini(title: str, label: str, is_named: bool):
    naming = Naming(apa_info())
    assert naming.names_label({"title": title, "color": label}, COLOR) is is_named


@pytest.mark.parametrize(
    ("title", "label", "is_named"),
    [
        ("polka dot dress", "polka dot", True),
        ("Polka-Dots dress", "polka dot", True),
        ("dress with dots", "polka dot", True),
        ("dress with a dot", "polka dot", True),
        ("polka dotted", "polka dot", True),
        ("polka dress", "polka dot", False),
        ("solid colors dress", "plain", True),
        ("stripe", "striped", True),
        ("Stripewell gown", "striped", False),
    ],
)
def test_patterns_of_apa_mini(title: str, label: str, is_named: bool):
    assert Naming(apa_info()).names_label({"title": title, "pattern": label}, PATTERN) is is_named


COLOR = SingleLabel(name="color", labels=["red", "blue", "grey", "black"])
PATTERN = SingleLabel(name="pattern", labels=["polka dot", "plain", "striped"])


def apa_info() -> DatasetInfo:
    return DatasetInfo(tasks=[COLOR, PATTERN], splits={}, source="", settings={"data_set": "apa_mini"}, hash="")


def test_other_data_sets_go_by_the_label_itself():
    info = apa_info().model_copy(update={"settings": {"data_set": "catalog"}})
    naming = Naming(info)
    assert naming.names_label({"title": "polka dots", "pattern": "polka dot"}, PATTERN) is True
    assert naming.names_label({"title": "dots", "pattern": "polka dot"}, PATTERN) is False
    assert naming.names_label({"title": "scarlet", "color": "red"}, COLOR) is False
    tags = MultiLabel(name="tags", labels=["birds", "grass", "C++", "?", "signs/map_symbols"])
    naming = Naming(info.model_copy(update={"tasks": [tags]}))
    for title, labels, is_named in (
        ("a bird", ["grass", "birds"], True),
        ("Birds", ["birds"], True),
        ("grass", ["grass"], True),
        ("two grasses", ["grass"], True),
        ("gras", ["grass"], False),
        ("birdsong", ["birds"], False),
        ("C++ manual", ["C++"], True),
        ("what ?", ["?"], True),
        ("Map symbol", ["signs/map_symbols"], True),
        ("sign", ["signs/map_symbols"], False),
        ("bird", [], None),
        ("bird", None, None),
    ):
        assert naming.names_label({"title": title, "tags": labels}, tags) is is_named, (title, labels)


def test_a_missing_title_names_nothing():
    assert Naming(apa_info()).names_label({"title": None, "color": "red"}, COLOR) is False
    assert not phrase_pattern(["red"]).search("")
