"""What training leaves on disk: DeepSpeed's state to go on from, and bundles to start or serve from."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine import TorchCheckpointEngine

from cma_clip.files import about, file_sha256, to_disk
from model.bundle import save_bundle
from model.cma_clip import Network
from model.config import BundleConfig
from train.ranks import raise_together, tell
from train.stage_state import RESTART, StageState, keep_only, write_state


class CheckedFiles(TorchCheckpointEngine):
    """Writes this rank's files so that they are on the disk, whole and as they were meant; used once.

    An error waits in `error`: the other ranks are on their way to a barrier.

    Attributes:
        sha256: of the files that are written, by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256: dict[str, str] = {}
        self.error: OSError | None = None

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        if self.error:
            return
        try:
            self.sha256[Path(path).name] = write_checked(state_dict, Path(path))
        except OSError as error:
            self.error = about(Path(path), error)


def write_checked(content: object, path: Path) -> str:
    """torch.save, then read it back; returns the sha256.

    Raises:
        OSError: the disk is full, or does not give back what was written.
    """
    with path.open("wb") as file:
        hashed = _Hashed(file)
        torch.save(content, hashed)  # type: ignore[arg-type]  # asks for no more than write and flush
        if hashed.error:
            raise hashed.error
        file.flush()
        os.fsync(file.fileno())
        # What is read back shall come from the disk.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if file_sha256(path) != hashed.sha256.hexdigest():
        raise OSError(f"{path}: the disk gives back other bytes than were written; the checkpoint before is kept")
    return hashed.sha256.hexdigest()


class _Hashed:
    """A file that torch.save writes to. An error waits for its end, as torch makes "unexpected pos" of it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        if not self.error:
            try:
                self.file.write(data)
                self.sha256.update(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        pass


def save(engine: deepspeed.DeepSpeedEngine, stage_dir: Path, state: StageState) -> None:
    """Write a checkpoint beside the last one, then point state.json at it; every rank calls this.

    DeepSpeed's own `latest` file is not safe against a crash and is not written.

    Raises:
        OSError: the disk is full or broken; the checkpoint before is kept, and nothing of this one.
    """
    checkpoints = stage_dir / "checkpoints"
    name = f"epoch{state.epoch}-update{state.update}"
    raise_together(tell(_make_folder(checkpoints / name) if dist.get_rank() == 0 else None))
    engine.checkpoint_engine = files = CheckedFiles()
    # Its script that makes weights of a checkpoint; on a full disk the copy would end one rank, and the others wait.
    engine._copy_recovery_script = lambda save_path: None
    engine.save_checkpoint(str(checkpoints), name, save_latest=False, exclude_frozen_parameters=True)
    told = tell((files.sha256, files.error))
    if dist.get_rank() == 0 and any(error for _, error in told):
        shutil.rmtree(checkpoints / name, ignore_errors=True)
    raise_together([error for _, error in told])
    state.checkpoint, state.files = name, {name: sha256 for own, _ in told for name, sha256 in own.items()}
    if dist.get_rank() == 0:
        for folder in (checkpoints / name, checkpoints, stage_dir):
            to_disk(folder)
        write_state(stage_dir, state)
        keep_only(stage_dir, name)
    dist.barrier()


def _make_folder(path: Path) -> OSError | None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return error
    return None


def load(engine: deepspeed.DeepSpeedEngine, stage_dir: Path, state: StageState) -> None:
    """Take up weights, optimizer and schedule of the checkpoint that `state` names.

    Raises:
        ValueError: the checkpoint, or a file of it, is not there, or is not what was written.
    """
    assert state.checkpoint is not None
    directory = stage_dir / "checkpoints" / state.checkpoint
    mine = fault_in(directory, state, dist.get_rank(), dist.get_world_size())
    raise_together(tell(mine))
    try:
        path, _ = engine.load_checkpoint(str(directory.parent), directory.name, load_module_strict=False)
    except Exception as error:  # states of before have no sha256, and what unpickling makes of damage is anything
        if state.files:
            raise
        raise ValueError(f"{directory}: damaged ({error}); put back a copy, {RESTART}") from error
    if path is None:
        raise ValueError(f"{directory}: no such checkpoint; put it back, {RESTART}")


def fault_in(directory: Path, state: StageState, rank: int = 0, world_size: int = 1) -> ValueError | None:
    """Why the checkpoint may not be taken, as far as this rank's part of its files shows."""
    for name in sorted(state.files or {})[rank::world_size]:
        path = directory / name
        if not path.is_file():
            return ValueError(f"{path}: no such file, though state.json names it; put back a copy, {RESTART}")
        if file_sha256(path) != (state.files or {})[name]:
            return ValueError(f"{path}: damaged, its sha256 is not that of state.json; put back a copy, {RESTART}")
    return None


def save_best(engine: deepspeed.DeepSpeedEngine, network: Network, stage_dir: Path, config: BundleConfig) -> None:
    """Write the network as `best`; every rank calls this, as ZeRO-3 has to gather the weights."""
    is_partitioned = engine.zero_optimization_stage() == 3
    with deepspeed.zero.GatheredParameters(list(network.parameters()), enabled=is_partitioned):
        if dist.get_rank() == 0:
            save_bundle(stage_dir / "best", config, network)
