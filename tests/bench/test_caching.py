"""The benchmark of caches: one pass of each stage on the tiny network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tiny import ROOT, environment

from bench.caching import CACHE, TITLES_AND_IMAGES, main


def test_both_ways_to_read_are_timed(data: Path, tmp_path: Path, capsys):
    options = ["--data", str(data), "--micro-batch", "8", "--updates", "1", "--rounds", "2"]
    command = [sys.executable, "-m", "bench.caching", *options, "--output", str(tmp_path / "out")]
    # DeepSpeed begins once a process.
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True, timeout=300)
    rows = json.loads((tmp_path / "out/result.json").read_text())["rows"]
    found = [(row["stage"], row["reads"]) for row in rows]
    assert found == [(stage, way) for stage in ("warmup", "tuning") for way in (TITLES_AND_IMAGES, CACHE)]
    for row in rows:
        assert row["products_per_s"]["median"] > 0 and len(row["ratios"]) == 2
        assert (row["bytes"] is not None) == (row["made_s"] is not None) == (row["reads"] == CACHE)
    by_stage = {row["stage"]: row["bytes"] for row in rows if row["bytes"]}
    width, tokens = 128, 65
    assert by_stage["warmup"] > 2 * width * tokens  # the image's alone, in bfloat16
    assert 8 * width < by_stage["tuning"] < 8 * width + 300
    assert main([*options, "--micro-batch", "80", "--updates", "2"]) == 2
    assert "160 products to train on, a pass of --updates 2 takes 320" in capsys.readouterr().err
