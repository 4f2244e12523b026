"""The image and the text that the demo ends with, from a faked server's answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client import Answer, ServerUnavailable, report


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
    assert shown.count("color: red  score 0.750  λ 0.25") == 6 and shown.count("pattern: plain") == 6
    assert "color: 6 of 6 accepted, pattern: 6 of 6 accepted\n" in shown
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
