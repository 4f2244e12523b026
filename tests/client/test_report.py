"""The image and the text that the demo ends with, from a faked server's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client import Answer, ServerUnavailable, report
from model.tasks import SingleLabel, TaskSet


class FakeClassifier:
    """Answers `red` and `plain` to everything."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> FakeClassifier:
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait_until_ready(self, timeout_s: float) -> None:
        if self.url == "nobody":
            raise ServerUnavailable("UNAVAILABLE", "no server at nobody")

    def classify(self, title: str, image: bytes) -> Answer:
        said = {"scores": [0.75], "accepted": True, "top": []}
        prediction = {
            "color": said | {"labels": ["red"], "text_share": 0.25},
            "pattern": said | {"labels": ["plain"], "text_share": 0.5},
        }
        return Answer(prediction, np.zeros(29, np.float32), np.array([0.25, 0.5], np.float32))


@pytest.fixture(autouse=True)
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "Classifier", FakeClassifier)


def test_text_and_image(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "new/report.png"
    assert report.main(["--data", str(data), "--products", "6", "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    _, products = report.read_products(data, "test", 6)
    assert shown.count("color: red  score 0.750  λ 0.25") == 7 and shown.count("pattern: plain") == 7
    assert "color: 7 of 7 accepted, pattern: 7 of 7 accepted\n" in shown and "mismatch" not in shown
    for product in products:
        assert repr(product["title"]) in shown
        verdict = "right" if product["pattern"] == "plain" else f"wrong, it is {product['pattern']}"
        assert f"({verdict})" in shown
    with Image.open(output) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.height > image.width / 2
    for color in (report.TEXT_COLOR, report.IMAGE_COLOR):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(axis=1).mean() > 0.01


def test_the_last_is_shown_under_the_title_of_one_whose_labels_all_differ(data: Path):
    tasks, products = report.read_products(data, "test", 6)
    shares = np.linspace(0.1, 0.6, 6)
    answers = [Answer({}, np.zeros(29, np.float32), np.array([0.0, share, 1.0])) for share in shares]
    (wrong,) = report.under_a_wrong_title(products, answers, tasks)
    name, _, donor = wrong["id"].partition(" under the title of ")
    own, other = (next(product for product in products if product["id"] == key) for key in (name, donor))
    assert wrong == own | {"id": wrong["id"], "title": other["title"]}
    assert own["color"] != other["color"] and own["pattern"] != other["pattern"]
    says_more = [p for p, share in zip(products, shares, strict=True) if share > shares[products.index(other)]]
    assert all(any(p[task.name] == q[task.name] for task in tasks) for p in says_more for q in products)
    assert report.under_a_wrong_title([own, own], answers[:2], tasks) == []
    assert report.under_a_wrong_title([own | {"pattern": None}, other], answers[:2], tasks) == []
    assert report.under_a_wrong_title([], [], tasks) == []


def test_a_mismatch_is_a_line_of_its_own_and_no_bar(data: Path, tmp_path: Path, capsys, monkeypatch):
    plain = FakeClassifier.classify

    def classify(self: FakeClassifier, title: str, image: bytes) -> Answer:
        answer = plain(self, title, image)
        told = {"label": "mismatch", "score": 0.875, "labels": ["mismatch"], "accepted": True, "text_share": 0.5}
        share = np.append(answer.text_share, np.float32(0.5))
        return Answer(answer.prediction | {"mismatch": told}, answer.probabilities, share)

    monkeypatch.setattr(FakeClassifier, "classify", classify)
    assert report.main(["--data", str(data), "--products", "1", "--output", str(tmp_path / "report.png")]) == 0
    assert capsys.readouterr().out.count("  mismatch  score of a mismatch 0.875\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--products", "41"], 2, "--products 41: expected 1 to 40"),
        (["--url", "nobody"], 1, "no server at nobody"),
        (["--data", "nowhere"], 2, "nowhere/dataset.json: no such file"),
    ],
)
def test_faults_are_one_line(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments, code, message):
    output = tmp_path / "report.png"
    assert report.main(["--data", str(data), "--output", str(output), *arguments]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not output.exists()


def test_what_does_not_apply_is_said_in_words():
    sleeve = SingleLabel(name="sleeve", labels=["short", "long"])
    told = {"label": None, "labels": [], "scores": [], "refused": "not_applicable", "text_share": 0.5}
    answer = Answer({"sleeve": told}, np.zeros(2, np.float32), np.array([0.5], np.float32))
    lines = [report.verdicts({"sleeve": true}, answer, TaskSet([sleeve]))[0] for true in (None, "long")]
    assert lines[0] == "sleeve: not applicable  score 0.000  λ 0.50  (no label)"
    assert lines[1].endswith("(wrong, it is long)")
