"""What an answer rests on, where it is known: a made-up model that reads one word and one part of the image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from console_files import app_of, open_console, write_data
from console_pages import Browser
from data_set_files import picture
from PIL import Image

from client.classifier import Classifier
from client.console.occlusion import GRID, MOST_WORDS, decisive, fall, without_part, without_word
from client.console.pages.trial import OPAQUE, shaded_parts, shaded_words
from client.errors import InvalidProduct
from client.protocol import Answer

LABELS = {"color": ["blue", "red"], "tags": ["new", "sale"]}
BRIGHT = (2, 5)  # row and column of the part that is read


class Reader:
    """Red is as likely as its word and the brightness of one part say; `new` always is, `sale` is never answered."""

    def __init__(self) -> None:
        self.asked = 0

    def classify(self, title, image):
        self.asked += 1
        if not title and not image:
            raise InvalidProduct("INVALID_ARGUMENT", "NO_MODALITY: neither title nor image")
        bright = 0.0
        if image:
            part = np.asarray(Image.open(io.BytesIO(image)))[BRIGHT[0] * 10 : BRIGHT[0] * 10 + 10]
            bright = part[:, BRIGHT[1] * 10 : BRIGHT[1] * 10 + 10].mean() / 255
        red = 0.2 + 0.5 * ("scarlet" in title.split()) + 0.25 * bright
        told = {"color": {"labels": ["red"]}, "tags": {"labels": ["new"]}}
        return Answer(told, np.array([1 - red, red, 0.9, 0.1], np.float32), np.zeros(2, np.float32))

    def classify_many(self, queries, in_flight):
        for title, image in queries:
            try:
                yield self.classify(title, image)
            except InvalidProduct as error:
                yield error


def image() -> tuple[bytes, np.ndarray]:
    pixels = np.zeros((70, 70, 3), np.uint8)
    pixels[BRIGHT[0] * 10 : BRIGHT[0] * 10 + 10, BRIGHT[1] * 10 : BRIGHT[1] * 10 + 10] = 255
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue(), pixels


def test_the_word_and_the_part_that_are_read_are_found_and_no_other():
    encoded, pixels = image()
    reader = Reader()
    _, (color, tags) = decisive(reader, "a scarlet dress", encoded, pixels, LABELS)
    assert (color.task, color.label, color.score) == ("color", "red", pytest.approx(0.95))
    assert color.words == [("a", color.score), ("scarlet", pytest.approx(0.45)), ("dress", color.score)]
    mean = pixels.mean() // 1 / 255
    expected = np.full((GRID, GRID), 0.95)
    expected[BRIGHT] -= 0.25 * (1 - mean)
    np.testing.assert_allclose(color.parts_GG, expected, atol=1e-6)
    assert tags.label == "new" and {*tags.parts_GG.flatten(), *dict(tags.words).values()} == {tags.score}
    assert reader.asked == 1 + 3 + GRID * GRID
    assert [shade for _, _, shade in shaded_words(color)] == [0, 10, 0] and not shaded_parts(tags)
    part = fall(0.95, expected[BRIGHT]) / fall(0.95, 0.45)
    assert shaded_parts(color) == [(BRIGHT[1], BRIGHT[0], pytest.approx(OPAQUE * part, abs=0.01))]


def test_a_fall_is_one_of_log_odds_and_bounded():
    assert fall(0.9, 0.5) == pytest.approx(np.log(9)) and fall(0.5, 0.9) == pytest.approx(-np.log(9))
    assert fall(1.0, 0.0) == pytest.approx(2 * np.log(1e6), rel=1e-3) and fall(1.0, 1.0) == 0


def test_without_its_only_word_nothing_is_left_of_a_score():
    _, (color, _) = decisive(Reader(), "scarlet", b"", None, LABELS)
    assert color.words == [("scarlet", 0.0)] and color.parts_GG is None


def test_of_a_long_title_the_first_words_are_tried():
    _, (color, _) = decisive(Reader(), "word " * (MOST_WORDS + 9), b"", None, LABELS)
    assert len(color.words) == MOST_WORDS


def test_a_part_is_painted_over_and_all_else_is_as_it_was():
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 3), np.uint8)  # not divided by GRID
    covered = np.zeros((23, 17), int)
    for part in range(GRID * GRID):
        painted = np.asarray(Image.open(io.BytesIO(without_part(pixels, part))))
        changed = (painted != pixels).any(axis=2)
        covered += changed
        assert (painted[changed] == pixels.mean(axis=(0, 1)).astype(np.uint8)).all()
    assert covered.max() == 1 and covered.mean() > 0.99
    assert without_word("one two  three", 1) == "one three"


def test_the_real_server_says_what_it_rests_on(server, data, tmp_path):
    """Through the page: every word, every task, and a refusal in one line."""
    with Classifier(server.url) as classifier:
        console = open_console(data, tmp_path / "d.sqlite", classifier=classifier)
        browser = Browser(app_of(console))
        browser.get("/try")
        answer = browser.post("/try", {"title": "Redwood belted dress"}, files={"image": ("x.jpg", picture(0))})
        assert answer.status_code == 200
        for task in console.catalog.tasks:
            assert f'<section aria-label="{task.name}">' in answer.text
        assert answer.text.count(">belted</mark>") == len(console.catalog.tasks)
        assert answer.text.count("<svg ") == len(console.catalog.tasks)
        refused = browser.post("/try", {"title": "dress"}, files={"image": ("x.jpg", picture(0)[:300])})
        assert refused.status_code == 422 and refused.text.startswith("IMG_")
        nothing = browser.post("/try", {"title": ""})
        assert nothing.status_code == 502 and "NO_MODALITY" in nothing.text


def test_a_server_that_is_away_and_a_console_without_one_say_so(tmp_path, free_port):
    write_data(tmp_path / "data")
    with Classifier(f"127.0.0.1:{free_port}", timeout_s=1) as classifier:
        browser = Browser(app_of(open_console(tmp_path / "data", tmp_path / "a.sqlite", classifier=classifier)))
        browser.get("/try")
        answer = browser.post("/try", {"title": "dress"})
        assert answer.status_code == 502 and f"127.0.0.1:{free_port}" in answer.text
    browser = Browser(app_of(open_console(tmp_path / "data", tmp_path / "b.sqlite")))
    browser.get("/try")
    assert browser.post("/try", {"title": "dress"}).status_code == 409
