"""Checkpoints on disks that are full or flip bits: refused by name, and the checkpoint before is whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cma_clip.files import file_sha256
from train import checkpoint
from train.checkpoint import CheckedFiles, fault_in, write_checked
from train.stage_state import StageState

OPTIMIZER, MODEL = "zero_pp_rank_0_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"
CONTENT = {"exp_avg": torch.arange(4096.0), "step": 3}


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, StageState]:
    files = CheckedFiles()
    for name in (OPTIMIZER, MODEL):
        files.save(CONTENT, str(tmp_path / name))
    return tmp_path, StageState(world_size=1, data_hash="d", checkpoint=tmp_path.name, files=files.sha256)


def changed(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


DAMAGES = {
    "cut in half": changed(lambda content: content[: len(content) // 2]),
    "empty": changed(lambda content: b""),
    "one bit": changed(lambda content: content[:9000] + bytes([content[9000] ^ 1]) + content[9001:]),
    "4 KiB": changed(lambda content: content[:4096] + bytes(4096) + content[8192:]),
    "longer": changed(lambda content: content + b"\0"),
    "of another run": lambda path: torch.save({"exp_avg": torch.zeros(4096)}, path),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("name", [OPTIMIZER, MODEL])
@pytest.mark.parametrize("damage", DAMAGES)
def test_R4_a_damaged_file_of_a_checkpoint_is_refused_by_name(written: tuple[Path, StageState], name: str, damage: str):
    directory, state = written
    assert fault_in(directory, state) is None
    DAMAGES[damage](directory / name)
    parts = [fault_in(directory, state, rank, 2) for rank in range(2)]
    (fault,) = filter(None, parts)  # the ranks share the work
    assert str(fault).startswith(f"{directory / name}: ") and "or add --restart" in str(fault)


def test_what_is_written_is_what_torch_reads(tmp_path: Path):
    sha256 = write_checked(CONTENT, tmp_path / "file")
    assert file_sha256(tmp_path / "file") == sha256
    assert torch.load(tmp_path / "file")["exp_avg"].equal(CONTENT["exp_avg"])


def test_R3_a_full_disk_is_named_after_the_ranks_have_met(tmp_path: Path):
    files = CheckedFiles()
    (tmp_path / "full").symlink_to("/dev/full")
    files.save({"exp_avg": torch.zeros(1 << 20)}, str(tmp_path / "full"))
    assert str(files.error) == f"[Errno 28] No space left on device: '{tmp_path / 'full'}'" and not files.sha256
    files.save(CONTENT, str(tmp_path / "next"))
    assert not (tmp_path / "next").exists()


def test_a_disk_that_gives_back_other_bytes_is_found_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint, "file_sha256", lambda path: "0" * 64)
    files = CheckedFiles()
    files.save(CONTENT, str(tmp_path / "file"))
    assert "gives back other bytes than were written" in str(files.error)
