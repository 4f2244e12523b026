"""Shards that changed after dataset.json was written: by a bit, by all labels, by a copy's clock."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.verify import changed_shard, check_sizes, not_described
from dataset.writer import NewDataset, write_rows
from model.tasks import SingleLabel


@pytest.fixture
def made(tmp_path: Path) -> Path:
    tasks = [SingleLabel(name="color", labels=["blue", "teal"])]
    splits = ("train", "validation", "test")
    rows = [
        Product(f"{split}{n}", bytes(9), f"title {n}", {"color": "teal"}, split) for split in splits for n in (1, 2)
    ]
    write_rows(NewDataset(directory=tmp_path / "data", tasks=tasks, source="test", settings={}), rows)
    return tmp_path / "data"


def fault(directory: Path, read_all: bool = False) -> ValueError | None:
    info = DatasetInfo.read(directory)
    check_sizes(directory, info)
    return next(filter(None, (changed_shard(directory, info, read_all, part, 2) for part in range(2))), None)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"title 2")] ^= 1
    path.write_bytes(content)


def relabel(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "color", pa.array(["blue"] * 2)), path, compression="none", use_dictionary=False)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [flip, relabel, cut, Path.unlink])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_R4_a_shard_that_changed_is_named_at_the_next_start(made: Path, split: str, change: Callable[[Path], None]):
    assert fault(made) is None
    shard = made / f"split={split}/00000.parquet"
    before = shard.stat().st_mtime
    change(shard)
    if shard.exists():
        os.utime(shard, (before + 5, before + 5))  # this disk's clock may be too coarse for a test
    try:
        found = fault(made)
    except ValueError as error:
        found = error
    assert str(found).startswith(f"{shard}: ") and str(found).endswith("put back a copy, or prepare the data again")


def test_R4_a_bit_that_flips_under_the_old_time_is_found_where_all_is_read(made: Path):
    shard = made / "split=test/00000.parquet"
    time = shard.stat().st_mtime_ns
    flip(shard)
    os.utime(shard, ns=(time, time))
    assert fault(made) is None
    assert str(fault(made, read_all=True)).startswith(f"{shard}: changed, its sha256 is not that of dataset.json")


def test_a_copy_of_a_data_set_is_the_data_set(made: Path, tmp_path: Path):
    """`cp -r` gives every file a new time, the shards perhaps a later one."""
    copy = Path(shutil.copytree(made, tmp_path / "copy", copy_function=shutil.copyfile))
    os.utime(copy / "dataset.json", (1, 1))
    assert fault(copy) is None and fault(copy, read_all=True) is None


def test_a_shard_that_nobody_described_is_said(made: Path):
    info = DatasetInfo.read(made)
    assert not_described(made, info) == []
    for name in ("00001.parquet", "._00000.parquet"):
        shutil.copy(made / "split=train/00000.parquet", made / "split=train" / name)
    assert not_described(made, info) == [made / "split=train/00001.parquet"]


@pytest.mark.parametrize("damage", ["order", "lost", "digit", "cut"])
def test_a_damaged_manifest_is_refused(made: Path, damage: str):
    path, info = made / "dataset.json", DatasetInfo.read(made)
    if damage == "order":
        info.splits["train"].shards, info.splits["test"].shards = (
            info.splits["test"].shards,
            info.splits["train"].shards,
        )
    elif damage == "lost":
        info.splits["test"].shards.clear()
    elif damage == "digit":
        info.splits["test"].shards[0].sha256 = "0" + info.splits["test"].shards[0].sha256[1:][::-1]
    text = info.model_dump_json()
    path.write_text(text[:-20] if damage == "cut" else text)
    with pytest.raises(ValueError, match=r"dataset\.json: "):
        DatasetInfo.read(made)


def test_data_sets_of_before_have_no_sizes_and_are_read(made: Path):
    path, info = made / "dataset.json", DatasetInfo.read(made)
    for split in info.splits.values():
        for shard in split.shards:
            shard.bytes = None
    path.write_text(info.model_dump_json())
    assert fault(made, read_all=True) is None
