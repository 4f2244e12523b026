"""Pages: what they show, what they take, and what they refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from console_files import (
    ANN,
    COLOR,
    DOUBTED,
    EVIL,
    EVIL_PLACE,
    WITHOUT_IMAGE,
    app_of,
    open_console,
    write_review,
)
from console_pages import Browser, Page
from data_set_files import picture
from PIL import Image
from scripted_server import Refuse, ScriptedServer
from starlette.testclient import TestClient

from client.classifier import Classifier
from client.console.access import is_loopback
from client.console.form import KEYS, fields_of
from model.tasks import SingleLabel, TaskSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_review(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def console(folder, tmp_path):
    return open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet", folder / "audit")


@pytest.fixture
def browser(console) -> Browser:
    return Browser(app_of(console))


def form(page: Page, **labels) -> dict:
    return {name: page.value(name) for name in ("_place", "_replaces", "_sampled")} | labels


def test_a_product_is_shown_with_what_is_known_and_its_answer_chosen(browser):
    page = browser.get(f"/review?place={DOUBTED}")
    assert page.checked("color") == [str(COLOR.labels.index("red"))] and page.checked("tags") == []
    words = " ".join(page.text.split())
    assert "color: its label is probably wrong" in words and "likelier: blue" in words
    assert "model: red 0.990, accepted, λ 0.25; label: red" in words
    assert "model: none, not accepted: score, λ 0.75; label: none" in words


def test_what_is_chosen_is_kept_and_the_next_one_follows(browser, console):
    page = browser.get("/review")
    first = int(page.value("_place"))
    answer = browser.post("/decide", form(page, color="1", tags=["0", "1"]))
    assert answer.status_code == 200
    kept = console.decisions.of_product(console.catalog.product(first).id)
    assert kept.labels == {"color": ["green"], "tags": ["new", "sale"]} and kept.reviewer == "somebody"
    assert kept.said == console.catalog.product(first).said and not kept.sampled
    following = Page(answer.text)
    assert following.value("_place") != str(first)
    again = Page(browser.post("/undo", form(following)).text)
    assert again.value("_place") == str(first) and console.decisions.of_product(kept.product) is None


def test_nobody_can_tell_and_no_label_at_all_are_two_things(browser, console):
    page = browser.get("/review?place=0")
    browser.post("/decide", form(page, color="untold"))
    assert console.decisions.of_product("train-0").labels == {"color": None, "tags": []}
    page = browser.get("/review?place=0")
    assert page.checked("color") == ["untold"] and page.value("_replaces") == "1"
    browser.post("/decide", form(page, color="0", tags="untold"))
    assert console.decisions.of_product("train-0").labels == {"color": ["blue"], "tags": None}


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({}, "color: choose one label"),
        ({"color": "3"}, "color: no such choice"),
        ({"color": "-1"}, "color: no such choice"),
        ({"color": ["0", "1"]}, "color: choose one label"),
        ({"color": "0", "tags.other": "odd"}, "tags: 'odd' is none of its 2 labels"),
        ({"color": "0", "_place": "x"}, "not a form of this console"),
        ({"color": "0", "_place": "99"}, "no product 99"),
    ],
)
def test_what_the_form_does_not_offer_is_refused_and_nothing_is_kept(browser, console, labels, says):
    page = browser.get("/review?place=0")
    answer = browser.post("/decide", form(page) | labels)
    assert answer.status_code in (404, 422) and says in answer.text
    assert console.queue.counts().decided == 0


def test_what_another_has_decided_since_is_not_written_over(browser, console):
    page = browser.get("/review?place=0")
    console.decisions.decide("train-0", {"color": ["red"]}, {}, ANN)
    answer = browser.post("/decide", form(page, color="0"))
    assert (
        "Ann has decided this product since; what you chose was not saved"
        in Page(answer.text).all("section")[0]["data-done"]
    )
    assert console.decisions.of_product("train-0").labels == {"color": ["red"]}


def test_a_product_of_the_sample_is_shown_without_what_is_said_of_it(browser, console):
    page = browser.get("/review?sample=true")
    assert page.value("_sampled") == "1" and page.checked("color") == page.checked("tags") == []
    assert "model:" not in page.text and "label:" not in page.text
    browser.post("/decide", form(page, color="0"))
    assert console.queue.estimates()[0].judged + console.queue.estimates()[1].judged >= 1
    assert "95 % interval" in browser.get("/progress").text


@pytest.mark.parametrize("path", [f"/review?place={EVIL_PLACE}", "/products", f"/products?id=../../x{EVIL}"])
def test_a_title_and_an_id_that_are_code_are_text(browser, path):
    response = browser.client.get(path, follow_redirects=True)
    page = Page(response.text)
    assert "alert(1)" in page.text and "../../x" in page.text
    assert {one.get("src") for one in page.all("script")} == {"/static/htmx.min.js", "/static/console.js"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all((one["src"] or "").startswith("/image/") for one in page.all("img"))
    assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"]


def test_images_are_encoded_anew_and_only_those_of_products_are_given(browser, console):
    page = browser.get("/review?place=0")
    response = browser.client.get(page.all("img")[0]["src"])
    image = Image.open(io.BytesIO(response.content))
    assert (image.format, image.size, response.headers["content-type"]) == ("JPEG", (16, 20), "image/jpeg")
    original = Image.open(io.BytesIO(picture(0))).convert("RGB")
    assert np.abs(np.asarray(image, int) - np.asarray(original, int)).mean() < 20
    assert response.content != picture(0) and response.headers["x-content-type-options"] == "nosniff"
    assert not browser.get(f"/review?place={WITHOUT_IMAGE}").all("img")
    for path in (f"/image/large/{WITHOUT_IMAGE}", "/image/large/99", "/image/huge/0", "/image/large/..%2f..%2fx"):
        assert browser.client.get(path).status_code in (404, 422), path


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/../etc/passwd"]
)
def test_no_path_leads_out(browser, path):
    assert browser.client.get(path).status_code == 404


def test_nothing_is_changed_for_a_page_that_is_not_the_consoles(browser, console):
    page = browser.get("/review?place=0")
    chosen = form(page, color="0")
    own = browser.headers
    for headers in ({}, {"x-csrf-token": "0" * 64}, own | {"cookie": "cma_clip_session=another"}):
        client = TestClient(browser.client.app) if "cookie" in headers else browser.client
        for path in ("/decide", "/skip", "/undo", "/name", "/try"):
            assert client.post(path, data=chosen, headers=headers).status_code == 403, (path, headers)
    assert console.queue.counts().decided == 0
    assert browser.post("/decide", chosen).status_code == 200


def test_what_is_too_long_is_not_read(browser, console):
    browser.get("/review")
    assert browser.post("/try", {"title": "x" * 30_000_001}).status_code == 413
    chunks = browser.client.post("/skip", content=iter([b"place=0"]), headers=browser.headers)
    assert chunks.status_code == 411 and console.queue.counts().decided == 0


def test_a_name_that_is_not_this_machines_is_not_answered(console):
    client = TestClient(app_of(console), base_url="http://evil.example")
    assert client.get("/review").status_code == 421


def test_without_its_token_a_console_elsewhere_says_nothing(console):
    browser = Browser(app_of(console, token="right"))
    for path in ("/review", "/image/large/0", "/static/console.js", "/export/csv", "/review?token=wrong"):
        assert browser.client.get(path).status_code == 401, path
    assert browser.client.post("/decide").status_code == 401
    entered = browser.client.get("/review?token=right")
    assert entered.status_code == 303 and entered.headers["location"] == "/review"
    assert "HttpOnly" in entered.headers["set-cookie"] and "SameSite=strict" in entered.headers["set-cookie"]
    assert browser.get("/review").value("_place")


def test_which_addresses_are_this_machine():
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com")] == [False] * 4


def test_read_only_shows_everything_and_takes_nothing(folder, tmp_path):
    open_console(folder / "data", tmp_path / "d.sqlite").decisions.decide("train-0", {"color": ["red"]}, {}, ANN)
    console = open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet", read_only=True)
    browser = Browser(app_of(console, read_only=True))
    page = browser.get("/review?place=0")
    assert not [one for one in page.all("button") if one.get("type") == "submit"]
    assert all("disabled" in one for one in page.all("fieldset"))
    for path in ("/review", "/products", "/progress", "/try", "/export/parquet"):
        assert browser.client.get(path).status_code == 200, path
    assert browser.post("/decide", form(page, color="0")).status_code == 403
    assert console.decisions.of_product("train-0").number == 1


def test_a_reviewer_says_who_it_is(browser, console):
    browser.get("/review")
    assert browser.post("/name", {"name": " "}).status_code == 422
    assert browser.post("/name", {"name": "a\nb"}).status_code == 422
    assert browser.post("/name", {"name": "Zoë; x=1"}).status_code == 204
    page = browser.get("/review?place=0")
    assert page.value("name") == "Zoë; x=1"
    browser.post("/decide", form(page, color="0"))
    assert console.decisions.of_product("train-0").reviewer == "Zoë; x=1"


def test_the_list_goes_on_where_it_ends(browser, monkeypatch):
    monkeypatch.setattr("client.console.pages.browse.MOST", 10)
    page, links = browser.get("/products"), []
    while True:
        links += [one["href"] for one in page.all("a") if "place=" in (one["href"] or "")]
        more = [card["hx-get"] for card in page.all("li") if "hx-get" in card]
        if not more:
            break
        assert len(page.all("li")) == 11
        page = browser.get(more[0])
    assert len(links) == len(set(links)) == 36
    assert browser.client.get("/products?state=odd").status_code == 422
    assert browser.client.get("/products?id=none").status_code == 404


def test_many_labels_have_a_key_each_or_the_frequent_ones_and_those_that_are_likely(console):
    product = console.catalog.product(0)
    for count in (len(KEYS), len(KEYS) + 9):
        task = SingleLabel(name="color", labels=[f"label {n}" for n in range(count)])
        counts = {"color": {label: n for n, label in enumerate(task.labels)}}
        asked = product._replace(said=None, given={"color": ["label 2"]}, likely={"color": "label 3"})
        (field,) = fields_of(asked, TaskSet([task]), None, counts, blind=False)
        shown = [choice.label for choice in field.choices]
        assert len(shown) == len(KEYS) and len({choice.key for choice in field.choices}) == len(KEYS)
        assert [choice.label for choice in field.choices if choice.chosen] == ["label 2"]
        assert sorted([*shown, *field.others]) == sorted(task.labels)
        if count > len(KEYS):
            assert shown == [f"label {n}" for n in range(41, 10, -1)] + ["label 2", "label 3"]
        assert field.focus == next(choice.key for choice in field.choices if choice.chosen)


def test_where_no_answer_is_there_the_server_is_asked_once_and_its_fault_is_said(folder, tmp_path):
    told = {"labels": ["red"], "scores": [0.75], "accepted": True, "text_share": 0.5, "label": "red", "score": 0.75}
    several = {"labels": ["new"], "scores": [0.5], "accepted": False, "refused": "score", "text_share": 0.5}

    class Server(ScriptedServer):
        def answer(self, title, image_bytes):
            response = super().answer(title, image_bytes)
            prediction = json.dumps({"color": told, "tags": several}).encode()
            response.raw_output_contents[0] = len(prediction).to_bytes(4, "little") + prediction
            return response

    def script(title, times):
        if title == "green dress 1":
            raise Refuse("UNAVAILABLE", "away")

    with Server(script) as server, Classifier(server.url, timeout_s=5) as classifier:
        console = open_console(folder / "data", tmp_path / "d.sqlite", classifier=classifier)
        browser = Browser(app_of(console))
        for _ in range(2):
            page = browser.get("/review?place=0")
            assert page.checked("color") == ["2"] and "model: red 0.750, accepted" in " ".join(page.text.split())
        assert server.asked == ["blue dress 0"]
        browser.post("/decide", form(page, color="2"))
        assert console.decisions.of_product("train-0").said["color"]["scores"] == [0.75]
        assert "no answer from the server: " in browser.get("/review?place=1").text
