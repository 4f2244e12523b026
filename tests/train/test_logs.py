"""The log of a run that was killed and goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from train.logs import RunLog, read_log


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


def test_a_validation_that_a_kill_left_before_its_checkpoint_is_in_the_log_once(tmp_path: Path):
    """The checkpoint was written after the epoch's last update, before its validation."""
    log = RunLog(tmp_path, 0, 0)
    log.update(1, 0.5, {}, 1e-3)
    log.validation(1, 1, 0.4, {}, True)
    log.close()
    log = RunLog(tmp_path, 0, 1, epochs_done=0)
    log.validation(1, 1, 0.4, {}, True)
    log.close()
    RunLog(tmp_path, 0, 1, epochs_done=1).close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["update"]) for line in lines] == [("train", 1), ("validation", 1)]


@pytest.mark.parametrize(
    "line", [b"{", b"[1]", b"\xff\xfe", b'{"kind": "train"}', b'{"kind": "train", "update": null}']
)
def test_a_damaged_line_of_the_log_is_named_with_its_cure(tmp_path: Path, line: bytes):
    good = b'{"kind": "train", "update": 1}\n'
    (tmp_path / "log.jsonl").write_bytes(good + line + b"\n" + good)
    with pytest.raises(ValueError, match=r"log.jsonl, line 2: damaged; delete this line"):
        read_log(tmp_path / "log.jsonl")


def test_rejects_of_before_count_once_when_a_run_goes_on_and_not_when_it_begins(tmp_path: Path):
    assert RunLog(tmp_path, 1, 0).rejects(["p1: IMG_EMPTY"]) == 1
    assert RunLog(tmp_path, 1, 5).rejects(["p1: IMG_EMPTY", "p2: IMG_EMPTY"]) == 2
    assert (tmp_path / "rejects-rank1.txt").read_text() == "p1: IMG_EMPTY\np2: IMG_EMPTY\n"
    assert RunLog(tmp_path, 1, 0).rejects([]) == 0


def test_R3_a_full_disk_is_said_with_the_name_of_the_log(tmp_path: Path):
    log = RunLog(tmp_path, 0, 0)
    log.lines = open("/dev/full", "a", buffering=1)  # noqa: SIM115
    with pytest.raises(OSError, match="No space left on device: '.*log.jsonl'"):
        log.update(1, 0.5, {}, 1e-3)
