"""What no stage can learn from is refused before its first update, with split and task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from data_set_files import picture
from tiny import ROOT

from dataset.format import DatasetInfo
from dataset.products import Product
from dataset.writer import NewDataset, write_rows
from model.tasks import MultiLabel, SingleLabel
from train.job import open_job
from train.learnable import check_learnable
from train.main import parse_arguments

TASKS = [SingleLabel(name="color", labels=["red", "blue"]), MultiLabel(name="tags", labels=["new", "sale"])]


def write(directory: Path, **changes: dict[str, Any]) -> Path:
    """Four products a split; `changes` overwrite a split's, by field or task."""
    rows = []
    for split in ("train", "validation"):
        for n in range(4):
            row = {"image": picture(n), "title": f"t{n}", "color": ("red", "blue")[n % 2], "tags": ["new"]}
            row |= changes.get(split, {})
            labels = {task.name: row[task.name] for task in TASKS}
            rows.append(Product(f"{split}{n}", row["image"], row["title"], labels, split))
    write_rows(NewDataset(directory, TASKS, source="drawn", settings={}), rows)
    return directory


NO_LABEL = {"color": None, "tags": None}


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        (
            "warmup",
            {"validation": NO_LABEL},
            "of the validation split has a label of any task (color, tags)",
        ),
        ("tuning", {"train": {"color": None}}, "no product of the train split has a label of the task color"),
        ("warmup", {"train": {"tags": []}}, "no product of the train split has a label of the task tags"),
        ("contrastive", {"train": {"title": ""}}, "0 products of the train split have a title and an image"),
        ("contrastive", {"validation": {"title": ""}}, "0 products of the validation split have a title and an image"),
        ("contrastive", {"train": {"image": b""}}, "0 products of the train split have a title and an image"),
        ("warmup", {"validation": {"color": None}}, None),
        ("warmup", {"validation": {"color": None, "tags": []}}, None),
        ("warmup", {"train": {"title": ""}, "validation": {"title": ""}}, None),
        ("contrastive", {"train": NO_LABEL, "validation": NO_LABEL}, None),
    ],
)
def test_a_stage_says_what_it_cannot_learn_from(tmp_path, stage, changes, said):
    data = write(tmp_path / "data", **changes)
    if said is None:
        check_learnable(stage, data, DatasetInfo.read(data))
        return
    with pytest.raises(ValueError, match=".") as refused:
        check_learnable(stage, data, DatasetInfo.read(data))
    assert said in str(refused.value) and str(data) in str(refused.value)


def test_it_is_refused_before_anything_is_written(tmp_path):
    data, recipe = write(tmp_path / "data", validation=NO_LABEL), ROOT / "tests/support/tiny.yaml"
    paths = ["--config", recipe, "--data", data, "--output", tmp_path / "run"]
    arguments = parse_arguments(["--stage", "warmup", *map(str, paths)])
    with pytest.raises(ValueError, match="validation split has a label of any task"):
        open_job(*arguments)
    assert not (tmp_path / "run").exists()
