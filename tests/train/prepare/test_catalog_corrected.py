"""`prepare catalog --corrections`: the data set has what people decided, and is of that very file."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data_set_files import all_rows, catalog_arguments, contents, error_of, good_rows, write_csv

from dataset.format import DatasetInfo
from train.prepare.__main__ import main

ALL_TRAIN = ["--validation", "0", "--test", "0"]


def decisions(path: Path) -> Path:
    """sku0 is pink; the colour of sku1, the only blue one, can nobody tell; sku2 has no tags; two ids are unknown."""
    columns = {
        "id": ["sku0", "sku1", "sku2", "sku3", "old1", "old2"],
        "color": ["pink", None, "blue", None, "red", "red"],
        "color_decided": [True, True, False, None, True, True],
        "tags": pa.array([None, ["new", "rare"], [], None, None, None], pa.list_(pa.string())),
        "tags_decided": [False, True, True, False, False, False],
        "title": ["not the table's"] * 6,
    }
    pq.write_table(pa.table(columns), path)
    return path


def table(folder: Path) -> Path:
    rows = good_rows(folder, 6)
    for row in rows:
        row[3] = "blue" if row[0] == "sku1" else "red"
    return write_csv(folder / "shop.csv", rows)


def test_the_data_set_has_what_was_decided(tmp_path, capsys):
    path = decisions(tmp_path / "decided.parquet")
    more = ["--corrections", str(path), *ALL_TRAIN]
    assert main(catalog_arguments(table(tmp_path), tmp_path / "out", *more)) == 0
    note = "note: corrections: 4 labels of 3 products; 2 ids are not in the table: 'old1', 'old2'"
    assert capsys.readouterr().out.count(note) == 1
    info = DatasetInfo.read(tmp_path / "out")
    assert {task.name: task.labels for task in info.tasks} == {
        "color": ["pink", "red"],
        "tags": ["new", "rare", "sale"],
    }
    found = all_rows(tmp_path / "out")
    assert {id: (row["color"], row["tags"]) for id, row in found.items()} == {
        "sku0": ("pink", ["new", "sale"]),
        "sku1": (None, ["new", "rare"]),
        "sku2": ("red", []),
        "sku3": ("red", None),
        "sku4": ("red", ["new", "sale"]),
        "sku5": ("red", None),
    }
    assert found["sku0"]["title"] == "Dress, no. 0" and not (tmp_path / "out/rejects.csv").exists()
    assert info.settings["corrections"] == str(path)
    assert info.settings["corrections_bytes"] == path.stat().st_size
    assert info.settings["corrections_modified_ns"] == path.stat().st_mtime_ns


def test_other_corrections_make_another_data_set(tmp_path, capsys):
    path = tmp_path / "decided.csv"
    path.write_text("id,color,color_decided\nsku0,pink,true\n")
    arguments = catalog_arguments(table(tmp_path), tmp_path / "out", "--corrections", str(path), *ALL_TRAIN)
    assert main(arguments) == 0 and main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    before = contents(tmp_path / "out")
    path.write_text(path.read_text().replace("pink", "teal"))  # as many bytes,
    os.utime(path, ns=(0, 10**18))  # and the table is younger than either
    assert main(arguments) == 2
    assert "holds a data set of other settings; --overwrite replaces it" in error_of(capsys)
    assert contents(tmp_path / "out") == before
    assert main([*arguments, "--overwrite"]) == 0
    assert all_rows(tmp_path / "out")["sku0"]["color"] == "teal"


def test_without_corrections_the_settings_are_what_they_were(tmp_path):
    assert main(catalog_arguments(table(tmp_path), tmp_path / "out", *ALL_TRAIN)) == 0
    assert not [name for name in DatasetInfo.read(tmp_path / "out").settings if name.startswith("corrections")]


def test_labels_of_a_file_reject_decisions_for_others(tmp_path):
    (tmp_path / "colors.txt").write_text("red\nblue\n")
    path = decisions(tmp_path / "decided.parquet")
    more = ["--corrections", str(path), "--labels", f"color={tmp_path / 'colors.txt'}", *ALL_TRAIN]
    assert main(catalog_arguments(table(tmp_path), tmp_path / "out", *more)) == 0
    assert DatasetInfo.read(tmp_path / "out").tasks[0].labels == ["red", "blue"]
    said = (tmp_path / "out/rejects.csv").read_text().splitlines()[1:]
    assert said == ["1,sku0,ROW_UNUSABLE,color: label 'pink' is not among the 2 known ones"]


def test_corrections_of_no_use_write_nothing(tmp_path, capsys):
    for name, content, expected in (
        ("gone.csv", None, "gone.csv: no such file"),
        ("d.csv", "id,color\nsku0,red\n", "d.csv: column 'color' stands alone"),
    ):
        if content:
            (tmp_path / name).write_text(content)
        more = ["--corrections", str(tmp_path / name)]
        assert main(catalog_arguments(table(tmp_path), tmp_path / "out", *more)) == 2
        assert expected in error_of(capsys) and not (tmp_path / "out").exists()
