"""Own catalogues of which a task is asked of some products only: what is stored, counted, said and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_set_files import all_rows, catalog_arguments, error_of, good_rows, write_csv
from tiny import tiny_bundle_config

from dataset.format import DatasetInfo
from model.tasks import Condition
from train.prepare.__main__ import main

ALL_TRAIN = ["--validation", "0", "--test", "0"]
COLORS = ["Red", "red", "dark, blue", "", "green", "dark, blue", "Red", "green"]
TAGS = ["new", "sale|new", "new", "sale", "new", "", "[]", "[]"]
ONLY_IF = ["--only-if", "tags", "color", "RED", "dark, blue"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = good_rows(tmp_path, len(COLORS))
    for row, color, tags in zip(rows, COLORS, TAGS, strict=True):
        row[3:] = color, tags
    return write_csv(tmp_path / "shop.csv", rows)


def prepared(table: Path, output: Path, *more: str) -> DatasetInfo:
    assert main(catalog_arguments(table, output, *ALL_TRAIN, *more)) == 0
    return DatasetInfo.read(output)


def test_labels_that_contradict_a_condition_are_dropped_and_counted(table: Path, tmp_path: Path, capsys):
    info = prepared(table, tmp_path / "out", "--merge-case", *ONLY_IF)
    assert info.tasks.by_name["tags"].only_if == Condition(task="color", labels=["Red", "dark, blue"])
    rows = all_rows(tmp_path / "out")
    stored = [rows[f"sku{n}"]["tags"] for n in range(len(COLORS))]
    # Of the green ones one has a label; that the other has none of them is no contradiction.
    assert stored == [["new"], ["sale", "new"], ["new"], ["sale"], None, None, [], None]
    assert info.splits["train"].label_counts["tags"] == {"new": 3, "sale": 2}
    shown = capsys.readouterr().out
    assert "tags (multi_label, 2 labels, only if color in Red, dark, blue): new 3, sale 2" in shown
    assert "note: tags: 1 rows have a label and are not asked for one (only if color in Red, dark, blue)" in shown


def test_the_same_command_does_nothing_and_another_condition_is_another_data_set(table: Path, tmp_path: Path, capsys):
    prepared(table, tmp_path / "out", "--merge-case", *ONLY_IF)
    before = (tmp_path / "out/dataset.json").read_bytes()
    prepared(table, tmp_path / "out", "--merge-case", *ONLY_IF)
    assert "already there" in capsys.readouterr().out and (tmp_path / "out/dataset.json").read_bytes() == before
    for other in ([], ["--only-if", "tags", "color", "red"]):
        assert main(catalog_arguments(table, tmp_path / "out", *ALL_TRAIN, "--merge-case", *other)) == 2
        assert "data set of other settings" in error_of(capsys)


def test_without_a_condition_all_is_written_as_before(table: Path, tmp_path: Path):
    prepared(table, tmp_path / "out")
    written = json.loads((tmp_path / "out/dataset.json").read_text())
    assert "only_if" not in written["settings"]
    assert [set(task) for task in written["tasks"]] == [{"name", "kind", "labels", "thresholds"}] * 2


def test_a_bundle_brings_its_condition_and_an_option_goes_first(table: Path, tmp_path: Path, capsys):
    info = prepared(table, tmp_path / "out", "--merge-case", *ONLY_IF)
    (tmp_path / "bundle").mkdir()
    config = tiny_bundle_config(tasks=info.tasks)
    (tmp_path / "bundle/config.json").write_text(config.model_dump_json())
    columns = ["--id-column", "sku", "--image-column", "photo", "--title-column", "name", "--merge-case"]
    june = ["catalog", "--csv", str(table), *columns, "--labels-of", str(tmp_path / "bundle"), "--output"]
    for name, more, asked in (
        ("june", [], ["Red", "dark, blue"]),
        ("july", ["--only-if", "tags", "color", "green"], ["green"]),
    ):
        assert main([*june, str(tmp_path / name), *more]) == 0
        assert DatasetInfo.read(tmp_path / name).tasks.by_name["tags"].only_if.labels == asked
    assert all_rows(tmp_path / "june")["sku4"]["tags"] is None and all_rows(tmp_path / "july")["sku0"]["tags"] is None
    assert "note: tags: 3 rows have a label and are not asked for one" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--only-if", "tags", "color"], "--only-if tags color: expected TASK OTHER LABEL"),
        (["--only-if", "tags", "size", "S"], "--only-if tags size S: no task size; there are color, tags"),
        (["--only-if", "fit", "color", "Red"], "no task fit; there are color, tags"),
        (["--only-if", "tags", "color", "mauve"], "task tags: only if color in mauve: color has no label 'mauve'"),
        (["--only-if", "tags", "tags", "new"], "task tags: its condition goes round in a circle (tags -> tags)"),
        ([*ONLY_IF[:3], "Red", "--only-if", "color", "tags", "new"], "goes round in a circle (color -> tags -> color)"),
        (
            [*ONLY_IF[:3], "Red", *ONLY_IF[:3], "green"],
            "--only-if tags color green: tags is only if color in Red already",
        ),
    ],
)
def test_a_condition_that_cannot_be_costs_one_line_and_leaves_nothing(table, tmp_path, capsys, options, says):
    assert main(catalog_arguments(table, tmp_path / "out", *ALL_TRAIN, *options)) == 2
    assert says in error_of(capsys) and not (tmp_path / "out").exists()
