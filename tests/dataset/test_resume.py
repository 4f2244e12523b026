"""The protocol of resuming: whose the work is, what stays of it, and when it is gone."""

from __future__ import annotations

import json

import pytest
from filelock import FileLock

from dataset.resume import is_under_way, work_on


def names(directory) -> set[str]:
    return {path.name for path in directory.iterdir()}


def stop_after_a_part(output, settings, name: str = "1") -> None:
    with pytest.raises(KeyboardInterrupt), work_on(output, settings, clear=False) as work:
        (work / "parts" / name).write_text("finished")
        raise KeyboardInterrupt


def test_what_is_finished_waits_for_the_same_settings(tmp_path):
    output = tmp_path / "out"
    stop_after_a_part(output, {"a": 1, "b": None})
    assert names(tmp_path) == {"out.partial"} and is_under_way(output)
    assert json.loads((tmp_path / "out.partial/settings.json").read_text()) == {"a": 1, "b": None}
    with work_on(output, {"b": None, "a": 1}, clear=False) as work:
        assert (work / "parts/1").read_text() == "finished"
    assert names(tmp_path) == set() and not is_under_way(output)


def test_other_settings_are_refused_by_name_or_cleared(tmp_path):
    output = tmp_path / "out"
    stop_after_a_part(output, {"a": 1, "b": [2]})
    with pytest.raises(ValueError, match=r"out.partial: begun with other settings \(b\); --overwrite begins anew"):
        work_on(output, {"a": 1, "b": [3]}, clear=False).__enter__()
    assert names(tmp_path / "out.partial/parts") == {"1"}
    with work_on(output, {"a": 1, "b": [3]}, clear=True) as work:
        assert names(work / "parts") == set()


@pytest.mark.parametrize("error", [ValueError("broken"), OSError("full"), KeyboardInterrupt()])
def test_nothing_finished_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), work_on(tmp_path / "out", {}, clear=False):
        raise error
    assert names(tmp_path) == set()


def test_only_one_process_is_at_work(tmp_path):
    stop_after_a_part(tmp_path / "out", {"a": 1})
    with (
        FileLock(tmp_path / "out.partial/lock"),
        pytest.raises(ValueError, match="out.partial: another run is at work in it"),
        work_on(tmp_path / "out", {"a": 2}, clear=True),
    ):
        pass
    assert names(tmp_path / "out.partial/parts") == {"1"}


def test_a_kill_at_the_very_end_is_no_work(tmp_path):
    (tmp_path / "out.done").mkdir()
    assert not is_under_way(tmp_path / "out") and names(tmp_path) == set()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff\x00", b'{"a": 1', None])
def test_damaged_settings_are_one_line_and_parts_that_say_whose_they_are_stay(tmp_path, caplog, content):
    output, file = tmp_path / "out", tmp_path / "out.partial/settings.json"
    for clear in (False, True):
        stop_after_a_part(output, {"a": 1})
        file.unlink() if content is None else file.write_bytes(content)
        caplog.clear()
        with pytest.raises(KeyboardInterrupt), work_on(output, {"a": 1}, clear=clear) as work:
            assert names(work / "parts") == (set() if clear else {"1"})
            assert json.loads(file.read_text()) == {"a": 1}
            (said,) = (record.message for record in caplog.records if record.levelname == "WARNING")
            assert said.startswith(f"{file}: missing or damaged; ")
            raise KeyboardInterrupt
