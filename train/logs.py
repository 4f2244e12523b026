"""What a run says while it works: JSON lines, TensorBoard, rejects, and a line an epoch for people."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cma_clip.files import about, write_atomically
from train.metrics import format_table


class RunLog:
    """Appends to `log.jsonl`, `tensorboard/` and `rejects-rankN.txt` of a stage.

    Args:
        rank: all but the first only report rejects.
        updates_done, epochs_done: where the run goes on; what a killed run logged beyond its checkpoint is dropped.
    Raises:
        ValueError: a line of the log is damaged.
    """

    def __init__(self, stage_dir: Path, rank: int, updates_done: int, epochs_done: int = 0) -> None:
        self.stage_dir, self.rank, self.enabled = stage_dir, rank, rank == 0
        self.rejects_file = stage_dir / f"rejects-rank{rank}.txt"
        if updates_done == 0:
            self.rejects_file.unlink(missing_ok=True)
        self.reported = set(self.rejects_file.read_text().splitlines()) if self.rejects_file.exists() else set()
        self.path = stage_dir / "log.jsonl"
        if self.enabled:
            kept = [line for line, at, epochs in read_log(self.path) if at <= updates_done and epochs <= epochs_done]
            write_atomically(self.path, "".join(kept))
            self.lines = self.path.open("a", buffering=1)
            self.board = SummaryWriter(str(stage_dir / "tensorboard"), purge_step=updates_done + 1)

    def update(self, update: int, loss: float, parts: dict[str, float], learning_rate: float) -> None:
        if self.enabled:
            self._write(update, "train", {"loss": loss, "learning_rate": learning_rate, **parts})

    def validation(self, update: int, epoch: int, loss: float, metrics: dict[str, Any], is_best: bool) -> None:
        if not self.enabled:
            return
        flat = {f"{task}/{name}": value for task, values in metrics.items() for name, value in values.items()}
        self._write(update, "validation", {"epoch": epoch, "loss": loss, "best": is_best, **flat})
        mark = " (best so far, kept)" if is_best else ""
        tqdm.write(f"epoch {epoch}: validation loss {loss:.4f}{mark}")
        if metrics:
            tqdm.write(format_table(metrics))

    def rejects(self, problems: list[str]) -> int:
        """Note products that could not be read; returns how many there are on this rank."""
        new = sorted(set(problems) - self.reported)
        if new:
            self.reported.update(new)
            with self.rejects_file.open("a") as file:
                file.writelines(f"{problem}\n" for problem in new)
        return len(self.reported)

    def close(self) -> None:
        if self.enabled:
            self.lines.close()
            self.board.close()

    def to_disk(self) -> None:
        """Before a checkpoint: it may not stand for more than the log has."""
        if self.enabled:
            os.fsync(self.lines.fileno())

    def _write(self, update: int, kind: str, values: dict[str, Any]) -> None:
        try:
            self.lines.write(
                json.dumps({"time": round(time.time(), 3), "kind": kind, "update": update, **values}) + "\n"
            )
        except OSError as error:
            raise about(self.path, error) from None
        for name, value in values.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.board.add_scalar(f"{kind}/{name}", value, update)


def read_log(path: Path) -> list[tuple[str, int, int]]:
    """Whole lines, each with the updates and the epochs that were over by then; a kill may have cut the last one.

    Raises:
        ValueError: a line is no such thing.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    known = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            values = json.loads(line)
            epochs = values["epoch"] if values["kind"] == "validation" else 0
            known.append((line.decode(), int(values["update"]), int(epochs)))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: damaged; delete this line and run the same command again (training needs none"
                " of them)"
            ) from None
    return known
