"""The rivals from a data set to figures: what they learn, gaps in the data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from data_set_files import picture
from study_files import TASKS, write_products
from tagged_files import COLOR, TAGS, write_tagged

from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import MISSING, MultiLabel, SingleLabel, TaskSet
from train.metrics import NAMES, task_metrics
from train.rivals import rival as fitting
from train.rivals.__main__ import main
from train.rivals.logistic import NEVER, fit
from train.rivals.products import open_split, read_products
from train.rivals.rival import FittedRival, fit_rival
from train.rivals.table import RIVALS
from train.study.perturbed import PerturbedDataset

BOTH = "tfidf_and_image_features"


@pytest.fixture(autouse=True)
def few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "STRENGTHS", (1.0, 10.0))


def test_the_command_judges_every_rival(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "out"
    assert main(["--data", str(data), "--output", str(output)]) == 0
    said = capsys.readouterr().out
    scores = {name: json.loads((output / name / "metrics.json").read_text()) for name in RIVALS}
    for name, score in scores.items():
        color = score["tasks"]["color"]
        assert list(color) == ["products", *NAMES, "text_share"] and color["text_share"] == RIVALS[name].text_share
        assert score["split"] == "test" and score["notes"][0].startswith("color: C ")
        assert f"{RIVALS[name].title}:" in said and len(pq.read_table(output / name / "predictions.parquet")) == 40
        assert (output / name / "classes-color.csv").exists() and (output / name / "confusion-color.csv").exists()
    accuracy = {name: score["tasks"]["color"]["accuracy"] for name, score in scores.items()}
    assert accuracy["image_features"] > 0.5 and accuracy[BOTH] > 0.5  # of 17 colours
    assert accuracy["tfidf"] > 0.3 and ", titles weigh " in scores[BOTH]["notes"][0]


def test_thresholds_come_from_validation_and_gaps_are_filled(tmp_path: Path):
    data = write_tagged(tmp_path / "tagged")
    fitted = fit_rival(RIVALS[BOTH], data)
    answers = fitted(open_split(data, "test"))
    figures = task_metrics(*answers[:3], fitted.tasks)
    # Titles name colour and tags: all is right, also where nobody is green and nothing is never.
    assert figures["color"]["accuracy"] == figures["tags"]["accuracy"] == 1 and figures["tags"]["products"] == 10
    assert [len(task.thresholds) for task in fitted.tasks] == [1, 3] and fitted.tasks[1].thresholds[2] == 0.5
    scores = fitted.tasks.scores(answers.logits_NC.numpy())
    assert scores[:, 2].max() < 1e-6 and 0 < scores[:, 5].max() < 0.1
    assert fitted.parameters == (3 + 3) * (fitted.features(read(data, "test")).shape[1] + 1)


def test_what_is_missing_or_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = write_products(tmp_path / "data")
    products = read(data, "train")
    assert products.titles[3] == products.titles[6] == "" and products.titles[0] == "red dress"
    assert not products.images_NF[[4, 6]].any() and products.images_NF[[0, 3]].any(axis=1).all()
    assert products.problems[0].startswith("train6: ") and (products.targets_NC[6] == MISSING).all()
    fitted = FittedRival(RIVALS[BOTH], TASKS, products, products)
    columns = fitted.features(products).toarray()
    titles = fitted.features.titles(products).toarray()
    assert titles[:, -1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0] and columns[:, -1].tolist() == [0] * 4 + [1] + [0] * 4
    assert not titles[3, :-1].any() and not columns[4, titles.shape[1] : -1].any()
    answers = fitted(open_split(data, "test"))
    assert "not judged: test6: " in capsys.readouterr().err
    assert np.isfinite(answers.logits_NC.numpy()).all() and (answers.text_share_NK == 0.5).all()


def test_a_perturbed_split_is_read_as_it_is_perturbed(tmp_path: Path):
    split = open_split(write_products(tmp_path / "data"), "test")
    original = read_products(split, with_images=True)
    shuffled, blank, absent = (
        read_products(PerturbedDataset(split, f"titles_{change}"), with_images=True)
        for change in ("shuffled", "blank", "absent")
    )
    donors = PerturbedDataset(split, "titles_shuffled").donors
    readable = [n for n, product in enumerate((0, 1, 2, 5, 6, 7, 8)) if product != 6]
    assert [shuffled.titles[n] for n in readable] == [
        original.titles[donors[n]] or split.product(donors[n])["title"].lower() for n in readable
    ]
    np.testing.assert_array_equal(shuffled.images_NF[0], original.images_NF[0])
    assert set(blank.titles) == set(absent.titles) == {""}
    assert blank.present_N2.all() and not absent.present_N2[readable, 0].any()


def test_the_best_on_validation_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    data = write_tagged(tmp_path / "tagged")
    info = DatasetInfo.read(data)
    products, kept = read(data, "train"), {}
    ranking = {0.1: 0.4, 1.0: 0.7, 10.0: 0.7}
    monkeypatch.setattr(fitting, "STRENGTHS", tuple(ranking))
    monkeypatch.setattr(
        fitting, "fit", lambda task, x, y, strength: kept.setdefault((task.name, strength), lambda x: strength)
    )
    monkeypatch.setattr(fitting, "_average_precision", lambda task, logits, targets: ranking[logits])
    monkeypatch.setattr(FittedRival, "logits", lambda *_: np.zeros((24, 6), dtype=np.float32))
    fitted = FittedRival(RIVALS["tfidf"], info.tasks, products, products)
    assert fitted.choices["color"] == fitted.choices["tags"] == (1.0, 1.0, 0.7)
    assert fitted.remarks() == [f"{task}: C 1 (mAP 0.700 on validation)" for task in ("color", "tags")]


def test_two_labels_one_label_and_none():
    x = np.array([[1.0], [2.0], [-1.0], [-2.0]], dtype=np.float32)
    two = fit(SingleLabel(name="a", labels=["x", "y", "z"]), x, np.eye(3)[[0, 0, 2, 2]], 1.0)(x)
    assert two[:, 0].tolist() == [0] * 4 and (two[:, 1] == NEVER).all() and (two[:, 2] > 0).tolist() == [0, 0, 1, 1]
    one = fit(SingleLabel(name="a", labels=["x", "y"]), x, np.eye(2)[[1, 1, 1, 1]], 1.0)(x)
    assert one.tolist() == [[NEVER, 0.0]] * 4
    constant = fit(MultiLabel(name="a", labels=["all", "none"]), x, np.array([[1, 0]] * 4), 1.0)(x)
    np.testing.assert_allclose(constant, [[np.log(5), -np.log(5)]] * 4, rtol=1e-6)
    with pytest.raises(ValueError, match="task a: no product of the train split has a label"):
        fit(SingleLabel(name="a", labels=["x", "y"]), x, np.full((4, 2), MISSING), 1.0)


@pytest.mark.parametrize(
    ("title", "image", "rival", "message"),
    [
        ("", picture(0), "tfidf", "TF-IDF finds nothing to count in the titles of the train split"),
        ("red dress", b"", "image_features", "no product of the train split has an image that can be read"),
    ],
)
def test_nothing_to_read_is_refused(
    title: str, image: bytes, rival: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    splits = ("train", "train", "train", "validation", "test")
    rows = [
        Product(f"{n}", image, title, {"color": COLOR.labels[n % 2], "tags": None}, split)
        for n, split in enumerate(splits)
    ]
    write_rows(NewDataset(tmp_path / "data", TaskSet([COLOR, TAGS]), source="", settings={}), iter(rows))
    words = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--rivals", rival]
    assert main(words) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))
    assert message in line and not (tmp_path / "out").exists()


def test_wrong_words_are_refused_before_any_work(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    taken = tmp_path / "taken/tfidf"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    assert main(["--data", str(data), "--output", str(tmp_path / "taken")]) == 2
    assert "holds something else than a score" in capsys.readouterr().err
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "dataset.json: no such file; make a data set with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--data", str(data), "--output", str(tmp_path / "out"), "--rivals", "gzip"])


def read(data: Path, split: str):
    return read_products(open_split(data, split), with_images=True)
