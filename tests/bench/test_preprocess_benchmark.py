"""The table of the preprocessing benchmark, and that it fails on a picture outside the tolerance."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bench import preprocessing as preprocess_benchmark
from bench.preprocessing import SIZES, difference, encode_jpeg, our_pixels, photograph


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["preprocess_benchmark", "--rounds", "1", "--largest", "300"])


def test_a_table_of_times_and_differences(command, capsys):
    assert preprocess_benchmark.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].count("simplejpeg 1.") == 1
    rows = [line for line in lines if line.startswith("| 300 x 300")]
    assert len(rows) == 3 and sum(line.startswith(("| 1 |", "| 2 |")) for line in lines) == 2
    for row in rows:
        pillow, ours, ratio = (float(row.split("|")[column]) for column in (3, 4, 6))
        assert ratio == pytest.approx(pillow / ours, rel=0.05)


def test_a_picture_outside_the_tolerance_is_a_failure(command, monkeypatch):
    monkeypatch.setattr(preprocess_benchmark, "our_pixels", lambda data: our_pixels(data) ^ np.uint8(2))
    assert preprocess_benchmark.main() == 1


@pytest.mark.parametrize("size", SIZES[:4])
@pytest.mark.parametrize("options", [{"quality": 75}, {"quality": 95, "subsampling": "4:4:4"}, {"progressive": True}])
def test_I16_jpegs_within_the_tolerance(size, options):
    assert difference(encode_jpeg(photograph(*size, seed=1), **options)).tolerable
