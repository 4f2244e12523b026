"""The benchmark of a new task: what it makes up is a data set, a bundle and a cache that the real command takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.adding import FORMS, main


@pytest.mark.parametrize("size", ["tiny", "robust"])
def test_a_new_task_is_timed_to_the_end(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr("train.add.fit.UPDATES", 20)
    assert main(["--products", "1000", "--labels", "3", "--size", size, "--output", str(tmp_path / "out")]) == 0
    (row,) = json.loads((tmp_path / "out/result.json").read_text())["rows"]
    assert row["size"] == size in FORMS and row["seconds"] > 0
    said = capsys.readouterr().out
    assert "sleeve: 800 labelled products in the train split" in said  # 8 of 10 to train on
    accuracy = float(said.split("test split of")[1].split("\n")[2].split()[2])
    assert accuracy > 0.9  # there is something to learn, and it is learned


def test_too_few_products_are_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--products", "10"]) == 2
    assert "--products is 1000 or more" in capsys.readouterr().err
