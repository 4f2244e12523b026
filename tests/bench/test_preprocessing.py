"""The table of the preprocessing benchmark, and that it fails on an image outside the tolerance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench import preprocessing as benchmark
from bench.preprocessing import SIZES, difference, encode_jpeg, our_pixels, photograph


def run(output: Path) -> int:
    return benchmark.main(["--rounds", "1", "--largest", "300", "--output", str(output)])


def test_a_table_of_times_and_differences(tmp_path, capsys):
    assert run(tmp_path) == 0
    text = capsys.readouterr().out
    assert text.startswith((tmp_path / "table.md").read_text()) and text.count("simplejpeg 1.") == 1
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith("| 300 x 300")]
    assert len(rows) == 3
    for row in rows:
        pillow, ours, ratio = (float(row.split("|")[column]) for column in (3, 4, 6))
        assert ratio == pytest.approx(pillow / ours, rel=0.05)


def test_an_image_outside_the_tolerance_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "our_pixels", lambda data: our_pixels(data) ^ np.uint8(2))
    assert run(tmp_path) == 1
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["verdict"] == {"every image is within the tolerance": False}
    assert len(result["rows"]) == 3 and all(row["differ"]["largest"] in (2, 3) for row in result["rows"])


@pytest.mark.parametrize("size", SIZES[:4])
@pytest.mark.parametrize("options", [{"quality": 75}, {"quality": 95, "subsampling": "4:4:4"}, {"progressive": True}])
def test_I16_jpegs_within_the_tolerance(size, options):
    assert difference(encode_jpeg(photograph(*size, seed=1), **options)).tolerable
