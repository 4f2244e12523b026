"""Files and folders that appear in one step, and what a kill or a full disk leaves of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cma_clip import files
from cma_clip.files import clear_interrupted, new_directory, write_atomically


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, and what is renamed, in this order."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(number: int) -> None:
        steps.append(f"flush {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def noted_replace(source: Path, target: Path) -> None:
        steps.append(f"rename to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    return steps


def test_a_power_cut_finds_a_file_and_its_folder_on_the_disk(tmp_path: Path, flushed: list[str]):
    write_atomically(tmp_path / "state.json", "{}")
    assert flushed == [f"flush .state.json.{os.getpid()}.partial", "rename to state.json", f"flush {tmp_path.name}"]


def test_a_power_cut_finds_a_directory_whole(tmp_path: Path, flushed: list[str]):
    with new_directory(tmp_path / "best") as partial:
        (partial / "inner").mkdir()
        (partial / "inner/weights").write_text("1")
    assert set(flushed[:3]) == {"flush inner", "flush weights", f"flush {partial.name}"}
    assert flushed[3:] == ["rename to best", f"flush {tmp_path.name}"]


def test_R3_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_atomically(tmp_path / "state.json", "old")
    with new_directory(tmp_path / "best") as partial:
        (partial / "weights").write_text("old")

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "to_disk", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*state\.json'"):
        write_atomically(tmp_path / "state.json", "new")
    with pytest.raises(OSError, match="No space left"), new_directory(tmp_path / "best") as partial:
        (partial / "weights").write_text("new")
    assert (tmp_path / "state.json").read_text() == (tmp_path / "best/weights").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best", "state.json"]


@pytest.mark.parametrize("is_exchanged", [False, True])
def test_what_a_kill_left_is_cleared_and_what_it_put_aside_comes_back(tmp_path: Path, is_exchanged: bool):
    for name in (".best.12.partial", ".best.12.old", *(["best"] if is_exchanged else [])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_text(name)
    (tmp_path / ".state.json.12.partial").write_text("{")
    (tmp_path / ".hidden").write_text("of somebody else")
    clear_interrupted(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "best"]
    assert (tmp_path / "best/weights").read_text() == ("best" if is_exchanged else ".best.12.old")
