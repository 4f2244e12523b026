"""Tasks that are not asked of a product, in the console: what a model says of them, the queue, the form, the sample."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from console_files import ANN, app_of, open_console
from console_pages import Browser, Page
from data_set_files import picture

from client.console.answers import of_prediction, read_answers
from client.predict.tables import CsvTable, ParquetTable
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import Condition, SingleLabel, TaskSet

CATEGORY = SingleLabel(name="category", labels=["dress", "shoe"])
SLEEVE = SingleLabel(name="sleeve", labels=["short", "long"], only_if=Condition(task="category", labels=["dress"]))
TASKS = TaskSet([CATEGORY, SLEEVE])
# Given labels, and how likely a model takes them for a dress; its sleeve is long.
GIVEN = [("dress", "long"), ("shoe", None), ("dress", None), ("shoe", None), (None, None), ("dress", "short")]
DRESS = [0.875, 0.125, 0.875, 0.875, 0.125, 0.125]


def predictions() -> list[dict]:
    scores = np.array([[dress, 1 - dress, 0.25, 0.75] for dress in DRESS], np.float32)
    return TASKS.predictions(scores, np.full((len(DRESS), 2), 0.5, np.float32), np.ones((len(DRESS), 2), bool))


def records() -> list[dict]:
    """As client.predict keeps them; first one that does not apply, which the types of the columns come from."""
    told = {"label_set": "0123456789ab", "model_version": "1", "code": None}
    rows = [{"id": f"p{n}", "prediction": json.dumps(said)} | told for n, said in enumerate(predictions())]
    return [rows[1], rows[0], *rows[2:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("not_applicable")
    rows = [
        Product(f"p{n}", picture(n), f"title {n}", {"category": category, "sleeve": sleeve}, "train")
        for n, (category, sleeve) in enumerate(GIVEN)
    ]
    write_rows(NewDataset(folder / "data", TASKS, source="drawn", settings={}), rows)
    table = ParquetTable(folder / "answers.parquet")
    table.add(records())
    table.close()
    return folder


def reasons(console) -> dict[str, tuple[str, str]]:
    products = [console.catalog.product(place) for place in range(len(GIVEN))]
    return {one.id: (one.task, one.reason) for one in products if one.reason}


def test_a_table_of_answers_has_nulls_where_a_task_does_not_apply(folder, tmp_path):
    rows = {row["id"]: row for row in pq.read_table(folder / "answers.parquet").to_pylist()}
    row = rows["p1"]
    assert (row["sleeve_answer"], row["sleeve_score"], row["sleeve_accepted"]) == (None, None, False)
    assert row["sleeve_refused"] == "not_applicable" and rows["p0"]["sleeve_answer"] == "long"
    table = CsvTable(tmp_path / "answers.csv")
    table.add(records())
    table.close()
    head, first, second, *_ = (tmp_path / "answers.csv").read_text().splitlines()
    assert "sleeve_answer,sleeve_score,sleeve_accepted,sleeve_refused" in head
    assert ",,,False,not_applicable," in first and ",long,0.75,True,," in second


def test_what_is_read_of_it_is_what_a_server_says(folder):
    read = dict(read_answers(folder / "answers.parquet", TASKS))
    for n, said in enumerate(predictions()):
        assert read[f"p{n}"] == of_prediction(said)
    assert read["p1"]["sleeve"]["labels"] == read["p1"]["sleeve"]["scores"] == []


def test_nobody_is_asked_for_what_is_not_asked(folder, tmp_path):
    # p1 and p3 are shoes; p4 may be a dress.
    console = open_console(folder / "data", tmp_path / "a.sqlite")
    assert reasons(console) == {"p2": ("sleeve", "no answer"), "p4": ("category", "no answer")}
    # A model says of p3 that it is a dress, of p5 that it is none; of p4 it is sure that no sleeve is asked.
    console = open_console(folder / "data", tmp_path / "b.sqlite", folder / "answers.parquet")
    assert reasons(console) == {"p3": ("category", "label"), "p5": ("category", "label")}


def test_a_form_takes_it_as_it_stands(folder, tmp_path):
    console = open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet")
    browser = Browser(app_of(console))
    page = browser.get("/review?place=1")
    words = " ".join(page.text.split())
    assert "model: not applicable, λ 0.50; no label" in words
    assert "not applicable, or nobody can tell" in words and page.checked("sleeve") == ["untold"]
    fields = {name: page.value(name) for name in ("_place", "_replaces", "_sampled")}
    chosen = {name: page.checked(name) for name in ("category", "sleeve")}
    assert browser.post("/decide", fields | chosen).status_code == 200
    assert console.decisions.of_product("p1").labels == {"category": ["shoe"], "sleeve": None}
    # Where the labels have one all the same, it is that which is chosen.
    assert browser.get("/review?place=5").checked("sleeve") == ["0"]
    assert Page(browser.client.get("/products").text).text.count("model not applicable") == 3


def test_an_accepted_answer_to_what_is_not_asked_is_wrong(folder, tmp_path):
    console = open_console(folder / "data", tmp_path / "d.sqlite", folder / "answers.parquet")
    three, two = console.catalog.product(3), console.catalog.product(2)
    console.decisions.decide("p3", {"category": ["shoe"], "sleeve": None}, three.said, ANN, sampled=True)
    console.decisions.decide("p2", {"category": ["dress"], "sleeve": None}, two.said, ANN, sampled=True)
    category, sleeve = console.queue.estimates()
    assert (category.right, category.judged) == (1, 2)
    assert (sleeve.right, sleeve.judged, sleeve.untold) == (0, 1, 1)  # of p2 nobody can tell
