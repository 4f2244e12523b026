"""Shards to batches: order, resumption, ranks, and that training sees what the server sees."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_set_files import reseal
from tiny import tiny_config

from dataset.format import DatasetInfo
from model.clip_towers import create_clip, preprocess_config
from model.images import image_to_pixels
from model.preprocess import TitleTokenizer
from model.tasks import MISSING, NOT_ASKED, Condition, MultiLabel, SingleLabel, TaskSet
from model.tokenizer import build_tokenizer
from train.data import ProductDataset
from train.sampler import OrderedBatches, ShuffledBatches

PREPROCESS = preprocess_config(create_clip(tiny_config()))
TOKENIZER = TitleTokenizer(build_tokenizer(PREPROCESS.vocab_size), PREPROCESS)
STARTS = [0, 7, 20, 30, 64, 101]


def open_split(data: Path, split: str = "test") -> ProductDataset:
    return ProductDataset(data, split, PREPROCESS, TOKENIZER)


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(data, tmp_path / "data"))


def shuffled(world_size: int = 1, rank: int = 0, **options: int) -> list[list[int]]:
    settings = {"batch_size": 12, "micro_batch_size": 3, "seed": 1, "epoch": 0, "window": 2} | options
    return list(ShuffledBatches(STARTS, rank=rank, world_size=world_size, **settings))


def test_I16_training_pixels_and_ids_are_those_of_the_server(data: Path):
    dataset = open_split(data)
    batch = dataset.collate([dataset[index] for index in range(len(dataset))])
    rows = pq.read_table(data / "split=test").to_pylist()
    assert len(rows) == len(dataset) == 40
    expected = np.stack([image_to_pixels(row["image"], PREPROCESS) for row in rows])
    np.testing.assert_array_equal(batch.pixels_BHWC.numpy(), expected)
    ids = TOKENIZER.encode_batch([row["title"].encode() for row in rows])
    np.testing.assert_array_equal(batch.input_ids_BT.numpy(), ids)
    assert batch.ids == [row["id"] for row in rows] and batch.present_B2.all() and not batch.problems


def test_targets_are_the_labels(data: Path):
    dataset = open_split(data)
    targets = np.stack([dataset[index].targets for index in range(len(dataset))])
    for index in (0, 17, 39):
        row, sizes = dataset.product(index), [len(task.labels) for task in dataset.tasks]
        color, pattern = np.split(targets[index], [sizes[0]])
        assert dataset.tasks[0].labels[color.argmax()] == row["color"] and color.sum() == 1
        assert dataset.tasks[1].labels[pattern.argmax()] == row["pattern"] and pattern.sum() == 1


def test_R10_missing_labels_are_masked_and_unknown_ones_named():
    tasks = TaskSet(
        [
            SingleLabel(name="color", labels=["red", "blue"]),
            MultiLabel(name="tags", labels=["a", "b", "c"]),
        ]
    )
    row = {"id": "p1", "color": None, "tags": ["c", "a"]}
    assert tasks.encode(row).tolist() == [MISSING, MISSING, 1, 0, 1]
    assert tasks.encode({"id": "p1", "color": "blue", "tags": []}).tolist() == [0, 1, 0, 0, 0]
    with pytest.raises(ValueError, match="p1: label 'green' is not among color's 2 labels"):
        tasks.encode(row | {"color": "green"})


def test_which_products_are_asked_is_for_the_data_set_to_say(copy: Path):
    """A bundle of before, without conditions, is judged by those of the data; its own tasks stay what they are."""
    info = DatasetInfo.read(copy)
    color, pattern = info.tasks
    asked = pattern.model_copy(update={"only_if": Condition(task="color", labels=color.labels[:9])})
    (copy / "dataset.json").write_text(info.model_copy(update={"tasks": TaskSet([color, asked])}).model_dump_json())
    own, theirs = open_split(copy), ProductDataset(copy, "test", PREPROCESS, TOKENIZER, tasks=info.tasks)
    assert own.tasks == TaskSet([color, asked]) and theirs.tasks == info.tasks
    colors, count = own.columns("color")["color"], len(color.labels)
    unasked_N = np.array([name not in color.labels[:9] for name in colors])
    assert 0 < unasked_N.sum() < len(colors)
    for dataset in (own, theirs):
        targets = np.stack([dataset[n].targets for n in range(len(dataset))])
        assert ((targets[:, count:] == NOT_ASKED).all(axis=1) == unasked_N).all() and targets[:, :count].min() == 0
    assert own.not_asked(own.product(int(unasked_N.argmax()))) == {"pattern"}


def test_every_update_holds_the_same_products_for_any_number_of_ranks():
    alone = [sorted(sum(shuffled()[i : i + 4], [])) for i in range(0, 32, 4)]
    ranks = [shuffled(world_size=2, rank=rank) for rank in range(2)]
    together = [sorted(sum((part for r in ranks for part in r[i : i + 2]), [])) for i in range(0, 16, 2)]
    assert alone == together and len(alone) == 101 // 12
    seen = sum(alone, [])
    assert len(set(seen)) == len(seen) == 96 and max(seen) <= 100


def test_R1_order_goes_on_at_any_update():
    whole = shuffled()
    assert shuffled(first_update=5) == whole[20:]
    assert shuffled(epoch=1) != whole and shuffled(seed=2) != whole and shuffled() == whole
    assert len(ShuffledBatches(STARTS, 12, 3, rank=0, world_size=2, seed=0, epoch=0, first_update=5)) == 6


def test_shuffling_reads_few_row_groups_at_a_time():
    order = ShuffledBatches(STARTS, 12, 3, rank=0, world_size=1, seed=1, epoch=0, window=2).order()
    groups = np.searchsorted(STARTS, order, side="right") - 1
    changes = [set(groups[:i]) & set(groups[i:]) for i in range(len(groups))]
    assert max(len(open_groups) for open_groups in changes) <= 2
    assert sorted(order) == list(range(101))


@pytest.mark.parametrize(("rows", "world_size"), [(10, 1), (10, 2), (3, 2), (1, 4), (16, 2)])
def test_evaluation_batches_cover_every_product_on_equally_many_batches(rows: int, world_size: int):
    ranks = [list(OrderedBatches(rows, 4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    interleaved = [index for step in zip(*ranks, strict=True) for batch in step for index in batch]
    assert interleaved[:rows] == list(range(rows)) and set(interleaved) == set(range(rows))


def test_R9_a_corrupt_picture_is_masked_and_reported(copy: Path):
    shard = next((copy / "split=test").glob("*.parquet"))
    table = pq.read_table(shard)
    images = table.column("image").to_pylist()
    images[3] = images[3][:200]
    index = table.schema.get_field_index("image")
    pq.write_table(table.set_column(index, "image", pa.array(images, pa.binary())), shard)
    dataset = open_split(copy)
    sample = dataset[3]
    assert sample.problem.startswith(f"{sample.id}: IMG_TRUNCATED") and (sample.targets == MISSING).all()
    batch = dataset.collate([dataset[2], sample])
    assert batch.problems == [sample.problem] and batch.readable_B.tolist() == [True, False]


def test_a_title_that_is_no_utf_8_is_a_reject_and_the_other_products_are_read(copy: Path):
    """One byte of the shard: the title of the product in place 3."""
    shard = next((copy / "split=test").glob("*.parquet"))
    title = open_split(copy)[3], pq.read_table(shard)["title"][3].as_py()
    content = shard.read_bytes()
    assert content.count(title[1].encode()) == 1
    shard.write_bytes(content.replace(title[1].encode(), b"\xff" + title[1].encode()[1:]))
    reseal(copy)
    dataset = open_split(copy)
    sample = dataset[3]
    assert sample.problem == f"{title[0].id}: TXT_INVALID_UTF8: the title is not UTF-8 at position 0"
    assert (sample.targets == MISSING).all() and dataset[2].problem is dataset[4].problem is None
    assert dataset.columns("id", "title")["title"][3].startswith("\\xff")


def test_an_id_and_labels_that_are_no_utf_8_are_shown_as_bytes(copy: Path):
    shard = next((copy / "split=test").glob("*.parquet"))
    table = pq.read_table(shard)
    for name, raw in (("id", b"p\xe9"), ("color", b"gr\xfcn")):
        values = [raw] * len(table)
        column = pa.array(values, pa.binary()).view(pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    pq.write_table(table, shard)
    with pytest.raises(ValueError, match=r"p\\xe9: label 'gr\\\\xfcn' is not among color's"):
        open_split(copy)[0]


def test_absent_picture_or_title(copy: Path):
    shard = next((copy / "split=test").glob("*.parquet"))
    rows = pq.read_table(shard)
    changed = rows.to_pylist()
    changed[0]["image"], changed[1]["title"] = b"", ""
    changed[2]["image"], changed[2]["title"] = b"", " "
    pq.write_table(pa.Table.from_pylist(changed, rows.schema), shard)
    dataset = open_split(copy)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch.present_B2.tolist() == [[True, False], [False, True]]
    assert not batch.pixels_BHWC[0].any() and not batch.problems
    assert "NO_MODALITY" in dataset[2].problem


def test_an_unreadable_shard_is_named(copy: Path):
    shard = next((copy / "split=train").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(ValueError, match=rf"{shard.name}: not a readable Parquet file"):
        open_split(copy, "train")
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name}: not a readable Parquet file"):
        open_split(copy, "train")


def test_a_shard_of_another_length_is_named(copy: Path):
    shard = next((copy / "split=train").glob("*.parquet"))
    pq.write_table(pq.read_table(shard).slice(0, 10), shard)
    with pytest.raises(ValueError, match="10 rows, dataset.json says 160"):
        open_split(copy, "train")


def test_an_empty_split_and_a_missing_data_set_are_named(copy: Path, tmp_path: Path):
    info = DatasetInfo.read(copy)
    del info.splits["test"]
    (copy / "dataset.json").write_text(info.model_dump_json())
    reseal(copy)
    with pytest.raises(ValueError, match=r"the split 'test' has no products; it has \['train', 'validation'\]"):
        open_split(copy)
    with pytest.raises(ValueError, match=r"nowhere/dataset\.json: no such file"):
        open_split(tmp_path / "nowhere")


def test_row_groups_leave_the_cache_when_it_is_full(data: Path):
    dataset = ProductDataset(data, "train", PREPROCESS, TOKENIZER, cached_row_groups=1)
    dataset.row_groups, dataset.starts = dataset.row_groups * 2, [0, 160, 320]
    first, again = dataset[5], dataset[165]
    assert first.id == again.id and len(dataset._cache) == 1
    np.testing.assert_array_equal(first.pixels, again.pixels)


@pytest.mark.parametrize(("groups_that_fit", "expected"), [(0.5, 1), (3.5, 3), (1000, 64)])
def test_large_row_groups_are_kept_and_shuffled_in_smaller_numbers(
    data: Path, monkeypatch: pytest.MonkeyPatch, groups_that_fit: float, expected: int
):
    [(path, _), *_] = open_split(data, "train").row_groups
    size = pq.read_metadata(path).row_group(0).total_byte_size
    monkeypatch.setattr("dataset.stored.CACHE_BYTES", int(groups_that_fit * size))
    assert open_split(data, "train").cache_size == expected
