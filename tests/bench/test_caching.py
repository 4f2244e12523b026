"""The benchmark of caches: one pass of each stage on the tiny network."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from bench import caching
from bench.caching import CACHE, TITLES_AND_IMAGES, main
from bench.training import plain_loop


def test_both_ways_to_read_are_timed(data: Path, tmp_path: Path, capsys, monkeypatch):
    options = ["--data", str(data), "--micro-batch", "8", "--updates", "1", "--rounds", "2"]
    # DeepSpeed begins once a process, which bench.training's tests do.
    monkeypatch.setattr(caching, "one_rank", nullcontext)
    monkeypatch.setattr(caching, "engine_loop", plain_loop)
    assert main([*options, "--output", str(tmp_path / "out")]) == 0
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
