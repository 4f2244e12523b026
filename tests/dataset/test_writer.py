"""Products to shards: row groups, rejects, summary, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from data_set_files import rows_of

from dataset import shards as shard_files
from dataset.products import Product, Reject
from dataset.writer import NewDataset, write_rows
from model.tasks import SingleLabel

TASKS = [SingleLabel(name="color", labels=["blue", "red"])]


def some_products(count: int, split: str = "train") -> list[Product]:
    return [Product(f"{split}{n}", bytes([n % 256]) * 9, f"title {n}", {"color": "red"}, split) for n in range(count)]


def new(directory: Path, **more) -> NewDataset:
    return NewDataset(directory=directory, tasks=TASKS, source="test", settings={}, **more)


def test_rows_are_cut_into_row_groups_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "ROW_GROUP_ROWS", 4)
    monkeypatch.setattr(shard_files, "SHARD_ROWS", 8)
    info = write_rows(new(tmp_path / "out"), some_products(19))
    shards = info.splits["train"].shards
    assert [(shard.file, shard.rows) for shard in shards] == [
        ("split=train/00000.parquet", 8),
        ("split=train/00001.parquet", 8),
        ("split=train/00002.parquet", 3),
    ]
    metadata = pq.ParquetFile(tmp_path / "out" / shards[0].file).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [4, 4]
    image = metadata.row_group(0).column(1)
    assert (image.path_in_schema, image.compression, image.statistics) == ("image", "UNCOMPRESSED", None)
    assert [row["title"] for row in rows_of(tmp_path / "out", "train")] == [f"title {n}" for n in range(19)]


def test_large_images_make_smaller_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_files, "ROW_GROUP_BYTES", 20)
    info = write_rows(new(tmp_path / "out"), some_products(7))
    metadata = pq.ParquetFile(tmp_path / "out" / info.splits["train"].shards[0].file).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 3, 1]


def test_rejects_are_listed_beside_the_data_set(tmp_path, capsys):
    rows = [
        Reject(1, "-a", "ROW_UNUSABLE", 'no, "really"'),
        *some_products(3),
        Reject(5, "\udcff", "TXT_INVALID_UTF8", "not UTF-8"),
    ]
    write_rows(new(tmp_path / "out"), rows)
    with (tmp_path / "out" / "rejects.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["row", "id", "code", "message"],
            ["1", "'-a", "ROW_UNUSABLE", 'no, "really"'],
            ["5", "\\udcff", "TXT_INVALID_UTF8", "not UTF-8"],
        ]
    shown = capsys.readouterr().out
    assert "2 rejected" in shown and "rejects.csv" in shown


def test_too_many_rejects_write_nothing(tmp_path):
    rows = [*(Reject(n, f"{n}", "IMG_EMPTY", "nothing") for n in (1, 2, 3)), *some_products(2)]
    with pytest.raises(ValueError, match=r"3 of 5 rows rejected, --max-rejects allows 50%; row 1: IMG_EMPTY: nothing"):
        write_rows(new(tmp_path / "out"), rows)
    write_rows(new(tmp_path / "out", max_rejects=0.6), rows)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_training_row_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="no row is left for the train split"):
        write_rows(new(tmp_path / "out"), some_products(3, "test"))
    assert list(tmp_path.iterdir()) == []


def test_the_summary_names_rows_labels_and_the_next_command(tmp_path, capsys):
    write_rows(new(tmp_path / "out"), some_products(3))
    shown = capsys.readouterr().out
    assert "train 3" in shown and "red 3, blue 0" in shown and "0 rejected" in shown
    next_command = shown.splitlines()[-1]
    assert next_command.startswith("next: deepspeed train/main.py --stage warmup --config train/recipes/apa.yaml")
    assert f"--data {tmp_path / 'out'} " in next_command
