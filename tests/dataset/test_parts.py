"""Data sets written in parts: a stopped run goes on and ends with the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from data_set_files import contents, rejects, rows_of
from filelock import FileLock

from dataset import parts
from dataset.parts import Part, cut
from dataset.products import Product, Reject
from dataset.rows import UnreadProduct
from dataset.writer import NewDataset, write_dataset
from model.tasks import SingleLabel

ITEMS = {"train": range(23), "validation": range(100, 104), "test": range(200, 211)}
PARTS = 10  # of 4 items: 6 of train, 1 of validation, 3 of test


@dataclass(frozen=True)
class Counting:
    """Item n to product n; 5 is a reject, 6 has no place. `log` has a line for every part that was begun."""

    log: Path
    stop_at: int = -1

    def products(self, part: Part) -> Iterator[Product | Reject]:
        with self.log.open("a") as file:
            file.write(f"{part.items[0]}\n")
        for n in part.items:
            if n == self.stop_at:
                raise KeyboardInterrupt
            if n == 5:
                yield Reject(n + 1, str(n), "ROW_UNUSABLE", "five")
            elif n != 6:
                yield Product(f"{n:07d}", bytes([n]) * 99, f"title {n}", {"color": ("blue", "red")[n % 2]}, part.split)


@dataclass(frozen=True)
class Dying:
    """Ends its process without a word, as one does that is out of memory."""

    def products(self, part: Part) -> Iterator[Product | Reject]:
        os._exit(9)
        yield


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(parts, "PART_ROWS", 4)


def new(directory: Path, **more) -> NewDataset:
    tasks = [SingleLabel(name="color", labels=["blue", "red"])]
    return NewDataset(**{"directory": directory, "tasks": tasks, "source": "test", "settings": {"a": 1}} | more)


def begun(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


@pytest.fixture
def whole(tmp_path) -> dict[str, bytes]:
    write_dataset(new(tmp_path / "whole"), cut(ITEMS), Counting(tmp_path / "whole.log"), 1)
    return contents(tmp_path / "whole")


def test_parts_are_shards_with_all_products_in_order(tmp_path, whole):
    info = write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    assert [row["id"] for row in rows_of(tmp_path / "out", "train")] == [
        f"{n:07d}" for n in range(23) if n not in (5, 6)
    ]
    assert {name: (split.rows, len(split.shards)) for name, split in info.splits.items()} == {
        "train": (21, 6),
        "validation": (4, 1),
        "test": (11, 3),
    }
    assert info.splits["train"].label_counts == {"color": {"blue": 11, "red": 10}}
    assert rejects(tmp_path / "out") == {(6, "5"): "ROW_UNUSABLE: five"}
    shards = [shard.file for split in info.splits.values() for shard in split.shards]
    assert set(contents(tmp_path / "out")) == {*shards, "dataset.json", "rejects.csv"}
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize("stop_at", [0, 13, 22, 101, 210])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(tmp_path, whole, stop_at):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log", stop_at), 1)
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").is_dir() == (stop_at > 0)
    before = begun(tmp_path / "log")
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    after = begun(tmp_path / "log")[len(before) :]
    assert len(before) + len(after) == PARTS + 1 and set(before) & set(after) == {before[-1]}
    assert contents(tmp_path / "out") == whole and not (tmp_path / "out.partial").exists()


def flip(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"\0")


@pytest.mark.parametrize("damage", [Path.unlink, flip, Path.touch, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("file", ["data/split=train/00002.parquet", "parts/train-00002.json"])
def test_a_part_that_is_damaged_is_made_again_alone(tmp_path, whole, caplog, file, damage):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log", 210), 1)
    damage(tmp_path / "out.partial" / file)
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "more"), 1)
    harmless = damage is Path.touch
    assert begun(tmp_path / "more") == ([208] if harmless else [8, 208]) and contents(tmp_path / "out") == whole
    gone = damage is Path.unlink and file.endswith(".json")
    said = [record.message for record in caplog.records if file in record.message]
    assert len(said) == (0 if harmless or gone else 1)


def test_other_settings_start_anew(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(new(tmp_path / "out", settings={"a": 2}), cut(ITEMS), Counting(tmp_path / "log", 210), 1)
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "more"), 1)
    assert len(begun(tmp_path / "more")) == PARTS and contents(tmp_path / "out") == whole


def test_processes_make_the_same_data_set(tmp_path, whole):
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 2)
    assert contents(tmp_path / "out") == whole
    assert sorted(begun(tmp_path / "log")) == sorted(part.items[0] for part in cut(ITEMS))


def test_a_process_that_dies_is_one_clear_line_and_what_is_finished_stays(tmp_path, whole):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log", 13), 1)
    with pytest.raises(OSError, match="a worker process died, perhaps for lack of memory; run the command again"):
        write_dataset(new(tmp_path / "out"), cut(ITEMS), Dying(), 2)
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "more"), 1)
    assert len(begun(tmp_path / "more")) == PARTS - 3 and contents(tmp_path / "out") == whole


def test_too_many_rejects_stop_the_run_and_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"1 of 38 rows rejected, --max-rejects allows 1%; row 6: ROW_UNUSABLE: five"):
        write_dataset(new(tmp_path / "out", max_rejects=0.01), cut(ITEMS), Counting(tmp_path / "log"), 1)
    assert begun(tmp_path / "log") == [0, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_two_runs_at_once_are_refused(tmp_path, whole):
    (tmp_path / "out.partial").mkdir()
    with (
        FileLock(tmp_path / "out.partial" / "lock"),
        pytest.raises(ValueError, match="out.partial: another run is at work in it"),
    ):
        write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    assert contents(tmp_path / "out") == whole


def test_an_old_data_set_is_replaced_only_when_asked_to(tmp_path, whole, capsys):
    settings = {"a": 2}
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    write_dataset(new(tmp_path / "out"), cut(ITEMS), Counting(tmp_path / "log"), 1)
    assert "already there" in capsys.readouterr().out and len(begun(tmp_path / "log")) == PARTS
    with pytest.raises(ValueError, match="--overwrite replaces it"):
        write_dataset(new(tmp_path / "out", settings=settings), cut(ITEMS), Counting(tmp_path / "log"), 1)
    assert contents(tmp_path / "out") == whole
    half = {"train": range(8), "test": range(3)}
    write_dataset(new(tmp_path / "out", settings=settings, overwrite=True), cut(half), Counting(tmp_path / "log"), 1)
    assert [row["id"] for row in rows_of(tmp_path / "out", "test")] == ["0000000", "0000001", "0000002"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out", "whole", "whole.log"]


def test_rows_are_cut_by_their_number_and_by_the_bytes_that_they_bring(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 250)
    rows = [UnreadProduct(n, Product(str(n), b"", "", {}, "train"), b"x" * (n * 10)) for n in range(14)]
    reject = Reject(15, "", "NO_ID", "none")
    cut = list(parts.cut_rows([*rows, reject], total=15))
    assert [[row.row for row in part.items] for part in cut] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10],
        [11, 12, 13],
        [15],
    ]
    assert [part.name for part in cut] == [f"rows-0000{n}" for n in range(5)]


@pytest.mark.parametrize(("total", "rows"), [(0, 1024), (1 << 20, 1024), ((1 << 20) + 1, 2048), (10**9, 16_384)])
def test_parts_grow_with_the_table(monkeypatch, total, rows):
    monkeypatch.setattr(parts, "PART_ROWS", 1024)
    assert parts.part_rows(total) == rows
