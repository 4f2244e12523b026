"""The log of a run that was killed and goes on."""

from __future__ import annotations

import json
from pathlib import Path

from train.logs import RunLog


def test_R1_lines_beyond_the_checkpoint_are_dropped(tmp_path: Path):
    log = RunLog(tmp_path, 0, 0)
    for update in (1, 2, 3):
        log.update(update, 0.5 * update, {"color": 0.1}, 1e-3)
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"time": 1, "kind": "tr')
    log = RunLog(tmp_path, 0, 2)
    log.update(3, 9.0, {}, 1e-3)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["update"], line["loss"]) for line in lines] == [(1, 0.5), (2, 1.0), (3, 9.0)]


def test_problems_are_written_once_and_by_every_rank(tmp_path: Path):
    log = RunLog(tmp_path, 3, 0)
    log.update(1, 0.0, {}, 0.0)
    assert log.rejects(["p1: IMG_EMPTY"]) == 1
    assert log.rejects(["p1: IMG_EMPTY", "p2: IMG_EMPTY"]) == 2
    assert (tmp_path / "rejects-rank3.txt").read_text() == "p1: IMG_EMPTY\np2: IMG_EMPTY\n"
    assert not (tmp_path / "log.jsonl").exists()
