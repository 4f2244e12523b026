"""Whether a rival that is ahead is named, and chance is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.fit.leaderboard import leaderboard


def write(directory: Path, products: int = 400, **recall: float | None) -> None:
    directory.mkdir(parents=True)
    values = {"products": products, "mean_average_precision": 0.5}
    tasks = {task: values | {"recall_at_90_precision": value} for task, value in recall.items()}
    (directory / "metrics.json").write_text(json.dumps({"tasks": tasks, "notes": ["color: 90% are promised"]}))


@pytest.mark.parametrize(("own", "best", "is_ahead"), [
    (0.60, 0.80, True),
    (0.80, 0.60, False),
    (0.78, 0.80, False),
    (None, 0.10, True),
    (0.0, 0.0, False),
    (1.0, 1.0, False),
])  # fmt: skip
def test_a_rival_that_is_ahead_beyond_chance_is_named(tmp_path, own, best, is_ahead):
    write(tmp_path / "score", color=own, mismatch=0.3)
    write(tmp_path / "rivals/tfidf", color=best)
    write(tmp_path / "rivals/image_features", color=0.0)
    told = leaderboard(tmp_path / "score", tmp_path / "rivals")
    assert told.endswith("\ncolor: 90% are promised") and told.count("are promised") == 1
    table, *notes = told.split("\nnote: ")
    assert len(notes) == is_ahead
    assert all("color: TF-IDF is ahead" in note for note in notes)
    assert "mismatch" in table  # which no rival answers


def test_the_same_difference_of_fewer_products_may_be_chance(tmp_path):
    for products in (30, 3000):
        write(tmp_path / f"{products}/score", products, color=0.6)
        write(tmp_path / f"{products}/rivals/tfidf", products, color=0.75)
    few, many = (leaderboard(tmp_path / f"{n}/score", tmp_path / f"{n}/rivals") for n in (30, 3000))
    assert "note" not in few and "note: color" in many


def test_without_rivals_there_is_a_table_and_no_note(tmp_path):
    write(tmp_path / "score", color=0.6)
    lines = leaderboard(tmp_path / "score", tmp_path / "rivals").splitlines()
    assert lines[0].split()[-1] == "CMA-CLIP" and lines[1].split() == ["color", "400", "0.600,", "0.500"]
