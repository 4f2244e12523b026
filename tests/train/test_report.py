"""The report: its figures against counting, no word of a product that a browser would obey, and its size."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from data_set_files import picture
from tiny import tiny_bundle_config, tiny_network

from cma_clip.command import EXIT_BAD_INPUT
from cma_clip.intervals import share_of
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.bundle import save_bundle
from model.config import PreprocessConfig
from model.tasks import MultiLabel, SingleLabel
from train.answers import Answers
from train.promise import main as promise
from train.report.__main__ import main
from train.report.before import changes, turned
from train.report.content import Told, calibration, confusions, galleries, of_task, precision_by_coverage
from train.report.page import thumbnail
from train.score import main as score
from train.study.irrelevant import main as irrelevant

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
COLOR = SingleLabel(name="color", labels=["red", "blue", "</script><b>green"])
TAGS = MultiLabel(name="tags", labels=["new", "sale"])


NAMED = {
    "right": "accuracy",
    "macro F1": "macro_f1",
    "recall at 90 % precision": "recall_at_90_precision",
    "calibration error": "calibration_error",
    "accepted": "accepted",
    "right of the accepted": "accepted_precision",
}


class Page(HTMLParser):
    """Tags with their attributes, and the text of each table row."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text: list[str] = []
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.in_cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report") / "data"
    rows = []
    for split, count in (("train", 8), ("validation", 8), ("test", 11)):
        for n in range(count):
            labels = {"color": COLOR.labels[n % 3] if n else None, "tags": [["new"], ["new", "sale"], []][n % 3]}
            title, image = EVIL if n == 1 else f"dress {n}", b"" if n == 2 else picture(n)
            rows.append(Product(f"{split}-{n}-{EVIL if n == 1 else ''}", image, title, labels, split))
    write_rows(NewDataset(directory, [COLOR, TAGS], source=f"drawn {EVIL}", settings={}), rows)
    return directory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    directory = tmp_path_factory.mktemp("report") / "bundle"
    save_bundle(directory, tiny_bundle_config(tasks=[COLOR, TAGS]), tiny_network(tasks=[COLOR, TAGS]))
    return directory


@pytest.fixture(scope="module")
def text(data: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("report") / "report.html"
    assert main([str(bundle), "--data", str(data), "--output", str(output), "--batch_size", "4"]) == 0
    return output.read_text()


def test_it_needs_no_network_and_obeys_no_product(text: str):
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        assert tag not in ("link", "iframe", "object", "b") or (tag == "b" and not attributes)
        assert not any((value or "").startswith(("http", "//")) for value in attributes.values())
    policy = next(attributes for tag, attributes in page.tags if attributes.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")
    # What users wrote is there, as text.
    said = "".join(page.text)
    assert EVIL in said and "</script><b>green" in said
    assert "both 10, a title alone 1, an image alone 0, 2 words in the median" in said


def test_its_figures_are_those_of_score(text: str, data: Path, bundle: Path, tmp_path: Path):
    assert score([str(bundle), "--data", str(data), "--output", str(tmp_path / "score")]) == 0
    metrics = json.loads((tmp_path / "score/metrics.json").read_text())["tasks"]
    rows = {row[0]: [cell.strip() for cell in row] for row in Page(text).rows if len(row) == 9}
    for name in ("color", "tags"):
        assert rows[name][1] == str(metrics[name]["products"])
        assert rows[name][2].startswith(f"{100 * metrics[name]['accuracy']:.1f} %")
        assert rows[name][5:] == [
            f"{metrics[name][key]:.3f}"
            for key in ("mean_average_precision", "recall_at_90_precision", "calibration_error", "text_share")
        ]
    beside = (tmp_path / "score/report.html").read_text()
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d \w*", "", beside) == re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d \w*", "", text)


def test_what_is_accepted_is_marked_and_why_not_is_said(data: Path, bundle: Path, tmp_path: Path):
    bundle = shutil.copytree(bundle, tmp_path / "bundle")
    assert promise([str(bundle), "--data", str(data), "--precision", "0.99"]) == 0
    assert main([str(bundle), "--data", str(data), "--output", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text()
    assert "not accepted: no promise" in text and "cannot be promised with 7 products" in text
    assert "what the bundle accepts</title>" not in text


def test_what_irrelevant_found_stands_in_it(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert irrelevant([str(bundle), "--data", str(data), "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "irrelevant.json").read_text())["perturbations"]
    command = [str(bundle), "--data", str(data), "--output", str(tmp_path / "report.html"), "--irrelevant"]
    assert main([*command, str(tmp_path)]) == 0
    rows = [row for row in Page((tmp_path / "report.html").read_text()).rows if row[0] == "titles blank"]
    assert [row[1:3] for row in rows] == [
        [str(values["products"]), f"{values['untouched']['accuracy']:.3f}, {values['accuracy']:.3f}"]
        for values in found["titles_blank"].values()
    ]
    assert main([*command, str(tmp_path), "--split", "validation"]) == EXIT_BAD_INPUT
    assert main([*command, str(data)]) == EXIT_BAD_INPUT
    said = capsys.readouterr().err
    assert "of the test split, not of validation" in said and "no irrelevant.json in it" in said


def told(scores: list[list[float]], true: list[int]) -> Told:
    scores_NL = torch.tensor(scores)
    targets_NL = torch.eye(3)[true].bool()
    count = len(true)
    answered_NL = torch.from_numpy(COLOR.answered(scores_NL.numpy()))
    answers = Answers(COLOR, scores_NL, answered_NL, targets_NL, torch.arange(count) + 10)
    return Told(answers, np.linspace(0, 1, count), np.array([1, 0, -1, 1][:count]))


def test_the_products_that_tell_most():
    scores = [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6], [0.8, 0.1, 0.1]]
    shown = of_task(told(scores, [0, 0, 2, 1]), most_cards=2)
    assert shown["mistakes"] == [13, 11]
    assert shown["least_sure"] == [12, 11]
    assert [(pair["true"], pair["said"], pair["count"]) for pair in shown["confusions"]] == [
        ("red", "blue", 1),
        ("blue", "red", 1),
    ]
    assert [(row["which"], row["products"]) for row in shown["believed"]] == [
        ("the title names the label", 2),
        ("it does not", 1),
    ]
    # All four are accepted, and the slider stands there.
    assert shown["shown"] == len(shown["curve"]) - 1 and shown["curve"][shown["shown"]][4] == 4
    assert galleries(shown) == [[13, 11], [12, 11], [11], [13]]
    assert shown["right"][0] == 0.5 and shown["labels"][0]["text_share"] == pytest.approx(1 / 6)
    assert len(confusions(told(scores, [1, 2, 0, 2]))) == 4


def test_curve_and_bins_by_hand():
    scores = np.array([[0.95], [0.85], [0.75], [0.65]], np.float32)
    right = np.array([[True], [True], [False], [True]])
    rows = precision_by_coverage(scores, right)
    assert [(row[1], row[4], row[5]) for row in rows] == [(0.25, 1, 0), (0.5, 2, 0), (0.75, 3, 1), (1.0, 4, 1)]
    assert [row[2] for row in rows] == pytest.approx([1, 1, 2 / 3, 3 / 4], abs=1e-4)
    assert rows[1][3] == pytest.approx(0.05**0.5, abs=1e-4)  # two of two: p ** 2 = 5 %
    assert precision_by_coverage(np.full((4, 1), -1, np.float32), right) == []
    bins = calibration(torch.tensor([[0.95], [0.91], [0.11], [1.0]]), torch.tensor([[True], [False], [False], [True]]))
    assert [row[1:] for row in bins] == [[0.0, 1], [pytest.approx(2 / 3), 3]]


def test_an_interval_is_clopper_and_pearsons():
    share, low, high = share_of(9, 10)
    assert (share, low, high) == (0.9, pytest.approx(0.55498, abs=1e-5), pytest.approx(0.99747, abs=1e-5))
    assert share_of(0, 10)[1:] == (0.0, pytest.approx(1 - 0.025**0.1)) and share_of(10, 10)[2] == 1.0


def test_thumbnails_are_small_and_a_damaged_image_has_none():
    assert thumbnail(b"", PreprocessConfig()) == thumbnail(b"no image", PreprocessConfig()) == ""
    assert len(thumbnail(picture(1), PreprocessConfig())) < 6000


def test_a_place_that_cannot_be_written_is_refused(data: Path, bundle: Path, tmp_path: Path, capsys):
    command = [str(bundle), "--data", str(data), "--output"]
    assert main([*command, str(tmp_path)]) == EXIT_BAD_INPUT
    assert main([*command, str(tmp_path / "none/report.html")]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err.count("expected a file in a folder that is there") == 2


def test_against_another_bundle_it_says_what_has_changed(data: Path, bundle: Path, tmp_path: Path):
    other, network = tmp_path / "other", tiny_network(tasks=[COLOR, TAGS])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    save_bundle(other, tiny_bundle_config(tasks=[COLOR, TAGS]), network)
    command = [str(bundle), "--data", str(data), "--output"]
    for name in ("other", "same"):
        before = other if name == "other" else bundle
        assert main([*command, str(tmp_path / f"{name}.html"), "--before", str(before)]) == 0
        judged = [str(before), "--data", str(data), "--output", str(tmp_path / name / "score")]
        assert score(judged) == 0
    now = json.loads((tmp_path / "same/score/metrics.json").read_text())["tasks"]
    then = json.loads((tmp_path / "other/score/metrics.json").read_text())["tasks"]
    changed = [row for row in Page((tmp_path / "other.html").read_text()).rows if row[0] in now and len(row) == 7]
    rows = {(row[0], row[1]): row[2:] for row in changed}
    for task in now:
        for figure, key in NAMED.items():
            shown = ["–" if each[task][key] is None else f"{each[task][key]:.3f}" for each in (then, now)]
            assert rows[task, figure][:2] == shown, (task, figure)
    same = [row for row in Page((tmp_path / "same.html").read_text()).rows if row[0] in now and len(row) == 7]
    assert [row[4:] for row in same] == [["+0.000", "+0.000 to +0.000", "may be chance"]] * 2 * len(NAMED)


def test_a_difference_that_chance_would_not_make_is_sure():
    targets_NL = torch.eye(3)[torch.arange(300) % 3].bool()
    good, bad = targets_NL.clone(), targets_NL.clone()
    bad[:60] = bad[:60].roll(1, dims=1)  # a fifth is wrong
    answers = [
        Answers(COLOR, answered.float() * 0.9, answered, targets_NL, torch.arange(300) + 7) for answered in (bad, good)
    ]
    right, f1, recall, error, accepted, rightly = changes(*answers)
    assert (right.before, right.after) == (pytest.approx(0.8), 1.0) and right.is_sure and 0.1 < right.low < 0.2
    assert right.high < 0.3 and (recall.before, recall.after) == (0.0, 1.0)
    assert not accepted.is_sure and accepted.difference == 0 and not accepted.is_worse()
    assert f1.is_sure and rightly.difference == pytest.approx(0.2) and not f1.is_worse()
    # Scores of 0.9 fit what is right of them once 90 % are: no answer is as sure as it should be, then and now.
    assert (error.before, error.after) == (pytest.approx(0.1), pytest.approx(0.1))
    back = changes(*reversed(answers))[0]
    assert back.is_worse() and back.is_worse(0.19) and not back.is_worse(0.21)
    which = turned(*answers)
    assert (which.products, which.better.tolist()) == (300, list(range(7, 67)))
    assert not len(which.worse) and not len(which.other)
    still = answers[0]._replace(answered_NL=bad.roll(1, dims=1))  # what was wrong is so in another way
    which = turned(answers[0], still)
    assert which.other.tolist() == list(range(7, 67)) and len(which.worse) == 240
