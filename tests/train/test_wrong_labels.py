"""How well wrong labels are found, where it is known which they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cma_clip.command import EXIT_BAD_INPUT
from dataset.format import DatasetInfo
from model.tasks import SingleLabel
from train.prepare.apa_mini import true_labels
from train.study.wrong_labels import found, main

COLOR = SingleLabel(name="color", labels=["red", "blue", "green"])


def test_a_row_by_hand():
    scores = np.array([[0.9, 0.05, 0.05]] * 20 + [[0.05, 0.9, 0.05]] * 20 + [[0.05, 0.05, 0.9]] * 20, np.float32)
    truth = ["red"] * 20 + ["blue"] * 20 + ["green"] * 20
    given = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)
    given[3:6] = [0, 1, 0]
    assert found(COLOR, scores, given, truth) == ["color", 60, 3, "1.000", "1.000", 3, 0]
    given[50] = [1, 0, 0]
    scores[50] = [0.95, 0.02, 0.03]  # believed, and wrong
    name, products, wrong, area, head, *_ = found(COLOR, scores, given, truth)
    assert (name, products, wrong) == ("color", 60, 4)
    # Three wrong labels have less belief than any right one, the fourth has more: 168 of 224 pairs are in order.
    assert (area, head) == ("0.750", "0.750")


def test_of_the_real_data_set(data: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(data)]) == 0
    color, pattern = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    train = DatasetInfo.read(data).splits["train"].rows
    assert (color[:2], pattern[:2]) == (["| color", str(train)], ["| pattern", str(train)])
    seed = DatasetInfo.read(data).settings["seed"]
    assert true_labels(seed, "train", 3) == true_labels(seed, "train", 3) != true_labels(seed + 1, "train", 3)
    assert 0 < int(color[2]) < 0.3 * train and float(color[3]) > 0.8


def test_other_data_sets_do_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tagged_files import write_tagged

    assert main([str(write_tagged(tmp_path / "data"))]) == EXIT_BAD_INPUT
    assert "only of apa_mini it is known which labels are wrong" in capsys.readouterr().err
