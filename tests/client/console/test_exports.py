"""Decisions as files: read back by who they are for."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from console_files import (
    ANN,
    EVIL_PLACE,
    WITHOUT_IMAGE,
    app_of,
    open_console,
    product,
    write_answers,
    write_data,
)
from data_set_files import rows_of
from PIL import Image
from starlette.testclient import TestClient

from client.console.__main__ import main as console
from client.console.as_files import main
from cma_clip.command import EXIT_BAD_INPUT
from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import SingleLabel
from train.prepare.__main__ import main as prepare

CHOSEN = {
    0: {"color": ["red"], "tags": ["sale"]},
    1: {"color": None, "tags": []},
    2: {"tags": None},
    EVIL_PLACE: {"color": ["green"], "tags": ["new", "sale"]},
    WITHOUT_IMAGE: {"color": ["blue"], "tags": ["new"]},
}
COLUMNS = ["--image-column", "image", "--title-column", "title", "--id-column", "id"]
TASKS = ["--task", "color:single_label", "--task", "tags:multi_label"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    write_data(folder / "data")
    write_answers(folder / "answers.parquet")
    console = open_console(folder / "data", folder / "data.decisions.sqlite", folder / "answers.parquet")
    for place, labels in CHOSEN.items():
        one = console.catalog.product(place)
        console.decisions.decide(one.id, labels, one.said, ANN)
    console.decisions.decide("train-9", {"color": ["red"]}, {}, ANN)
    assert console.decisions.undo(ANN) == "train-9"
    console.decisions.skip("train-10", ANN)
    return folder


def written(folder: Path, tmp_path: Path, format: str, name: str) -> Path:
    output = tmp_path / name
    assert main(["--data", str(folder / "data"), "--format", format, "--output", str(output)]) == 0
    return output


def expected(place: int) -> dict[str, object]:
    """The labels of a product with the decision laid over them."""
    return product("train", place).labels | {
        task: labels if task == "tags" or labels is None else labels[0] for task, labels in CHOSEN[place].items()
    }


@pytest.mark.parametrize(("format", "name"), [("parquet", "decisions.parquet"), ("csv", "decisions")])
def test_prepare_catalog_takes_them_as_they_are(folder, tmp_path, format, name):
    output = written(folder, tmp_path, format, name)
    source = ["--csv", str(output / "decisions.csv")] if format == "csv" else ["--parquet", str(output)]
    arguments = [*source, *COLUMNS, *TASKS, "--validation", "0", "--test", "0", "--output", str(tmp_path / "again")]
    assert prepare(["catalog", *arguments]) == 0
    rows = {row["id"]: row for row in rows_of(tmp_path / "again", "train")}
    assert set(rows) == {product("train", place).id for place in CHOSEN}
    for place in CHOSEN:
        original = product("train", place)
        row = rows[original.id]
        assert (row["title"], row["image"]) == (original.title, original.image)
        assert {task: row[task] for task in ("color", "tags")} == expected(place)


@pytest.mark.parametrize(("format", "name"), [("parquet", "decisions.parquet"), ("csv", "decisions")])
def test_laid_over_the_crawled_table_they_change_what_was_decided_and_nothing_else(folder, tmp_path, format, name):
    output = written(folder, tmp_path, format, name)
    file = output / "decisions.csv" if format == "csv" else output
    made = []
    for name, more in (("before", []), ("after", ["--corrections", str(file)])):
        arguments = ["--parquet", str(folder / "data"), *COLUMNS, *TASKS, *more]
        assert prepare(["catalog", *arguments, "--output", str(tmp_path / name)]) == 0
        splits = DatasetInfo.read(tmp_path / name).splits
        made.append({row["id"]: row for split in splits for row in rows_of(tmp_path / name, split)})
    before, after = made
    decided = {product("train", place).id: place for place in CHOSEN}
    assert before.keys() == after.keys()
    for id, row in before.items():
        changed = expected(decided[id]) if id in decided else {}
        assert after[id] == row | changed, id


def test_label_studio_gets_what_was_decided_and_what_the_model_had_said(folder, tmp_path):
    tasks = json.loads(written(folder, tmp_path, "label-studio", "tasks.json").read_text())
    by_id = {task["data"]["id"]: task for task in tasks}
    first, untold = by_id["train-0"], by_id["train-1"]
    assert first["data"]["title"] == "blue dress 0"
    kind, _, content = first["data"]["image"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (16, 20)
    chosen = {"from_name": "color", "to_name": "image", "type": "choices", "value": {"choices": ["red"]}}
    assert first["annotations"][0]["result"][0] == chosen
    said = {one["from_name"]: one["value"]["choices"] for one in first["predictions"][0]["result"]}
    assert said == {"color": ["blue"], "tags": ["new"]}
    assert untold["annotations"][0]["result"] == []
    assert by_id[product("train", WITHOUT_IMAGE).id]["data"]["image"] == ""


def test_fiftyone_gets_a_file_of_labels_for_each_task_beside_the_images(folder, tmp_path):
    output = written(folder, tmp_path, "fiftyone", "fiftyone")
    images = {path.stem: path for path in (output / "data").iterdir()}
    color, tags = (json.loads((output / f"labels-{task}.json").read_text())["labels"] for task in ("color", "tags"))
    assert color == {"0": {"label": "red"}, "2": {"label": "red"}, "3": {"label": "green"}}
    assert tags == {"0": [{"label": "sale"}], "3": [{"label": "new"}, {"label": "sale"}]}
    assert {*color, *tags} <= set(images) and images["3"].read_bytes() == product("train", EVIL_PLACE).image
    assert all(path.parent == output / "data" for path in images.values())


def test_a_page_gives_the_same(folder, tmp_path):
    console = open_console(folder / "data", folder / "data.decisions.sqlite", read_only=True)
    client = TestClient(app_of(console, read_only=True))
    response = client.get("/export/parquet")
    assert response.headers["content-disposition"] == 'attachment; filename="decisions.parquet"'
    own = pq.read_table(io.BytesIO(response.content)).to_pylist()
    assert own == pq.read_table(written(folder, tmp_path, "parquet", "d.parquet")).to_pylist()
    names = zipfile.ZipFile(io.BytesIO(client.get("/export/csv").content)).namelist()
    assert "decisions.csv" in names and "images/3.jpeg" in names and not [name for name in names if ".." in name]
    assert client.get("/export/odd").status_code == 404


def test_a_task_with_the_name_of_a_mark_is_refused_before_anything_is_decided(tmp_path, capfd):
    tasks = [SingleLabel(name=name, labels=["a", "b"]) for name in ("color", "color_decided")]
    labels = {"color": "a", "color_decided": "b"}
    rows = [Product(str(n), b"", "title", labels, "train") for n in range(2)]
    write_rows(NewDataset(tmp_path / "data", tasks, source="drawn", settings={}), rows)
    assert console(["--data", str(tmp_path / "data"), "--port", "0"]) == EXIT_BAD_INPUT
    assert "task color_decided: what is decided of another task has that name" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_without_a_decision_there_is_an_empty_table(folder, tmp_path):
    console = open_console(folder / "data", tmp_path / "none.sqlite")
    client = TestClient(app_of(console))
    assert len(pq.read_table(io.BytesIO(client.get("/export/parquet").content))) == 0
    assert client.get("/export/label-studio").json() == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--output", "d.csv"], "expected a name that ends in .parquet"),
        (["--output", "{folder}/data", "--format", "csv"], "is there; name another one"),
        (["--output", "d.parquet", "--decisions", "none.sqlite"], "no decisions to read"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(folder, tmp_path, monkeypatch, capfd, options, says):
    monkeypatch.chdir(tmp_path)
    options = [option.format(folder=folder) for option in options]
    assert main(["--data", str(folder / "data"), *options]) == EXIT_BAD_INPUT
    assert says in capfd.readouterr().err and not list(tmp_path.iterdir())
